#!/usr/bin/env bash
# The whole flow, shown: a simulated shop, or a real log named by LOG (gzipped or not), chosen by its header.
. "$(dirname "$0")/common.sh"
use_postgres

script=demo
log=${LOG:-}
if [ -n "$log" ]; then
    [ -f "$log" ] && [ -r "$log" ] || die "LOG: there is no readable file $log"
    log=$(readlink -f "$log")
    header=$(zcat -f -- "$log" 2>/dev/null | head -n 1 || true)
    case $header in
        event_time,event_type,product_id,*) script=rees46 ;;
        session_id,split,seconds,page,*) script=clickstream ;;
        *) die "LOG: $log is of no kind that examples/ knows; it begins: ${header:0:80}" \
            "known: rees46 (event_time,event_type,product_id,…) and clickstream (session_id,split,seconds,page,…)" \
            "for another log, copy examples/rees46.sql and change its table and its mapping" ;;
    esac
fi
[ -f "examples/$script.sql" ] || die "examples/$script.sql is missing"

scripts/install.sh
say "running examples/$script.sql${log:+ on $log}"
# From its input, not as a file, or psql would put the line number before everything that training tells.
# psql substitutes no variables in \copy, but the shell it starts reads the environment: \copy t from program 'zcat -f "$LOG"'.
LOG=$log PGOPTIONS='-c client_min_messages=warning' scripts/cluster.sh run demo -- bash -euc '
    createdb demo
    psql -X -q -P pager=off -d demo <"$0"' "examples/$script.sql"
