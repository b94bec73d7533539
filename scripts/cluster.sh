#!/usr/bin/env bash
# Throw-away PostgreSQL clusters under target/cluster/NAME: local connections only, no password, nothing worth keeping.
#
#   cluster.sh run NAME -- COMMAND…   start, run COMMAND with PGHOST, PGPORT, PGUSER set, stop whatever happens
#   cluster.sh start|stop|status NAME
#   cluster.sh crash NAME             kill -9 the whole server, and start it again on what it left
#   cluster.sh clean                  stop and remove all
#
# COUPON_PORT fixes the port (otherwise a free one), CLUSTER_CONF holds more lines for postgresql.conf.
# A stopped cluster leaves only its log; KEEP=1 leaves the data too.
. "$(dirname "$0")/common.sh"
use_postgres

clusters=$TARGET/cluster
export LC_ALL=C.UTF-8

ctl() { as_server "$(command -v pg_ctl)" -D "$dir/data" -s "$@"; }

# The process number in a pid file may belong to a dead server that nobody collected, or to another program by now.
running() {
    local pid
    pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "-D $dir/data "
}

# True where something listens on the loopback port $1.
busy() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the range from which the kernel takes ports for outgoing connections.
free_port() {
    local port
    for _ in {1..50}; do
        port=$((20000 + RANDOM % 12000))
        busy "$port" || { echo "$port"; return; }
    done
    die "found no free port between 20000 and 32000"
}

# A place that the server's user can reach and whose socket path is short enough (the system's limit is 107 bytes).
make_place() {
    local place=$clusters/$name
    mkdir -p "$clusters"
    if [ ${#place} -gt 80 ] || ! as_server test -x "$clusters"; then
        place=$(mktemp -d /tmp/coupon_ext.XXXXXX)
        ln -sfn "$place" "$clusters/$name"
        say "user $SERVER_USER cannot use $clusters (closed to it, or the path is too long): the cluster is in $place"
    else
        mkdir -p "$place"
    fi
    chmod 700 "$place"
    [ "$(id -u)" != 0 ] || chown "$SERVER_USER:" "$place"
    dir=$place
}

remove_place() {
    case $dir in
        "$clusters"/* | /tmp/coupon_ext.??????) rm -rf -- "$dir" ;;
    esac
    rm -rf -- "${clusters:?}/$name"
}

show_log() { tail -n 20 "$dir/log" 2>/dev/null | sed 's/^/  | /' >&2 || true; }

start() {
    if [ -f "$dir/data/postmaster.pid" ]; then
        if running; then
            say "stopping cluster $name, which an earlier run left behind"
            stop
        else
            say "removing cluster $name with a stale postmaster.pid"
        fi
    fi
    remove_place
    make_place
    as_server "$(command -v initdb)" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
        >"$dir/initdb.log" 2>&1 || { sed 's/^/  | /' "$dir/initdb.log" >&2; die "initdb failed"; }

    local port tries=0
    while :; do
        port=${COUPON_PORT:-$(free_port)}
        if busy "$port"; then die "port $port is busy" "set COUPON_PORT to another one, or leave it unset to get a free one"; fi
        {
            echo "listen_addresses = '127.0.0.1'"
            echo "port = $port"
            echo "unix_socket_directories = '$dir'"
            echo "fsync = off"
            echo "full_page_writes = off"
            echo "shared_buffers = 256MB"
            echo "max_prepared_transactions = 10"
            echo "log_line_prefix = '%m [%p] %d '"
            echo "timezone = 'UTC'"
            printf '%s\n' "${CLUSTER_CONF:-}"
        } | as_server tee "$dir/data/coupon_ext.conf" >/dev/null
        [ $tries -gt 0 ] || echo "include 'coupon_ext.conf'" | as_server tee -a "$dir/data/postgresql.conf" >/dev/null
        # The server must not inherit our lock or our input.
        if ctl -w -t 60 -l "$dir/log" start </dev/null >/dev/null 2>&1 9>&-; then break; fi
        tries=$((tries + 1))
        # Somebody may take the port between the look and the start.
        if [ -z "${COUPON_PORT:-}" ] && [ $tries -lt 5 ] && grep -q 'could not bind' "$dir/log"; then
            as_server rm -f "$dir/log"
            continue
        fi
        show_log
        die "cluster $name did not start; the end of its log is above"
    done
    printf 'export PGHOST=%q PGPORT=%q PGUSER=postgres PGDATABASE=postgres CLUSTER_LOG=%q\n' "$dir" "$port" "$dir/log" >"$clusters/$name.env"
    say "cluster $name: PostgreSQL $(as_server "$(command -v postgres)" -V | cut -d ' ' -f 3) as user $SERVER_USER on port $port"
}

stop() {
    if running; then
        ctl -m fast -t 60 stop >/dev/null 2>&1 9>&- || ctl -m immediate -t 30 stop >/dev/null 2>&1 9>&- || {
            show_log
            die "cluster $name does not stop (process $(head -n 1 "$dir/data/postmaster.pid"))"
        }
    fi
    [ -n "${KEEP:-}" ] || rm -rf -- "$dir/data"
    rm -f "$clusters/$name.env"
}

# Stopped before they are counted, so that no process is forked meanwhile.
crash() {
    local pid all
    running || die "cluster $name is not running"
    pid=$(head -n 1 "$dir/data/postmaster.pid")
    kill -STOP "$pid"
    all="$pid $(cat "/proc/$pid/task/$pid/children")"
    # shellcheck disable=SC2086 # one word a process
    kill -KILL $all
    for pid in $all; do
        while [ -e "/proc/$pid" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.02; done
    done
    # Where nobody collects dead processes, the server would take its own remains for another one.
    rm -f "$dir/data/postmaster.pid" "$dir"/.s.PGSQL.*
    ctl -w -t 120 -l "$dir/log" start </dev/null >/dev/null 2>&1 9>&- || { show_log; die "cluster $name did not recover"; }
}

# Two runs at once would remove each other's cluster. The lock is gone with the process that holds it.
lock() {
    mkdir -p "$clusters"
    exec 9>"$clusters/$name.lock"
    flock -n 9 || die "cluster $name is in use by another run in this folder" "wait for it, or stop it"
}

verb=${1:-}
name=${2:-}
case $verb in
    clean) [ -d "$clusters" ] || exit 0 ;;
    run | start | stop | status | crash)
        [[ $name =~ ^[a-z0-9_]+$ ]] || die "usage: cluster.sh $verb NAME" "NAME is made of a-z, 0-9 and _"
        dir=$(readlink -f "$clusters/$name" || echo "$clusters/$name")
        ;;
    *) sed -n '2,/^\. /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac

case $verb in
    run)
        [ "${3:-}" = -- ] && [ $# -gt 3 ] || die "usage: cluster.sh run NAME -- COMMAND…"
        lock
        trap stop EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        start
        . "$clusters/$name.env"
        "${@:4}" 9>&-
        ;;
    start)
        if running; then say "cluster $name is running already"; else lock; start; fi
        cat "$clusters/$name.env"
        ;;
    stop) stop ;;
    crash) crash ;;
    status)
        if running; then echo running; cat "$clusters/$name.env"; else echo stopped; exit 3; fi
        ;;
    clean)
        for path in "$clusters"/*; do
            [ -d "$path" ] || continue
            name=${path##*/}
            dir=$(readlink -f "$path")
            stop
            remove_place
        done
        rm -rf -- "$clusters"
        ;;
esac
