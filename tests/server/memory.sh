#!/usr/bin/env bash
# Proves: what a serving backend keeps is bounded, with three versions in use; a training that the operating system
# refuses memory is an error with a hint, and the server lives.
#
#   MEMORY_CLICKS (10000)   clicks in one backend; 1000000 for the long form
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"
clicks=${MEMORY_CLICKS:-10000}

note "10,000 sessions under three versions"
connect
answer "SELECT 1" >/dev/null
fresh=$(anonymous)
# serve PREFIX FROM TO: clicks of these sessions, a hundred a statement, and everything that is asked of them
serve() {
    answer "DO \$\$ BEGIN FOR b IN $2 .. $3 LOOP
        INSERT INTO click SELECT '$1-' || i, now(), 'view', 'p' || i % 7, 'c' || i % 5, 20 FROM generate_series(100 * b, 100 * b + 99) i;
        PERFORM issue_coupon('$1-' || i), churn_probability('$1-' \
            || i), (SELECT count(*) FROM rank_categories(NULL, '$1-' || i))
        FROM generate_series(100 * b, 100 * b + 99) i; END LOOP; END \$\$" >/dev/null
}
for version in 1 2 3; do
    [ $version = 1 ] || q "SELECT coupon.train_ranking(seed => $version)" >/dev/null
    for again in 1 2; do serve "v$version" 0 33; done
done
expect "sessions of each version" "3400 3400 3400" \
    "$(q "SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM coupon.session WHERE session LIKE 'v_-%' GROUP BY version ORDER BY version) v")"
for version in 1 2 3; do serve "v$version" 0 33; done
scored=$(anonymous)
echo "a fresh backend holds $fresh kB, this one $scored kB"
expect "less than 20 MB more" t "$([ $((scored - fresh)) -lt 20480 ] && echo t)"
note "and $clicks clicks later, in five rounds"
at=0
least=
for round in 1 2 3 4 5; do
    before=$(anonymous)
    for ((end = clicks / 500 * round; at < end; at += 20)); do serve "w" $at $((at + 19)); done
    grown=$(($(anonymous) - before))
    if [ -z "$least" ] || [ "$grown" -lt "$least" ]; then least=$grown; fi
done
later=$(anonymous)
echo "it holds $later kB; the round that grew least grew by $least kB"
expect "still less than 20 MB more" t "$([ $((later - fresh)) -lt 20480 ] && echo t)"
# The allocator and PostgreSQL's caches take steps; what leaks grows in every round, 64 bytes a click being too much.
expect "and none that every round adds" t "$([ $((least * 1024)) -le $((64 * clicks / 5)) ] && echo t)"
disconnect

note "an operating system that has less"
# allow BYTES: the address space the backend may have; a limit of one's own processes can be set without being root
allow() {
    local as=()
    [ "$(id -u)" != 0 ] || as=(setpriv "--reuid=$(stat -c %u "/proc/$backend")" "--regid=$(stat -c %g "/proc/$backend")" --clear-groups)
    "${as[@]}" prlimit --pid "$backend" --as="$1:"
}
before=$(q "SELECT count(*) FROM coupon.version")
started=$(q "SELECT pg_postmaster_start_time()")
refused=0
for more in 0 4 8 16 32 48 64 96 128 192 256 384 512; do
    connect
    answer "SELECT 1 FROM coupon.version; LOAD 'coupon_ext'" >/dev/null
    size=$(sed -n 's/^VmSize:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$backend/status")
    allow $(((size + more * 1024) * 1024))
    said=$(answer "SELECT count(*) > 0 FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}', seed => 9)")
    if [ "$said" = t ]; then
        echo "ok: $more MB are enough"
        before=$((before + 1))
    else
        # The last is what PostgreSQL's parallel workers share, where the log is large enough for them.
        grep -qE 'ERROR:  (out of memory|could not start a thread|could not map shared memory segment .*: Cannot allocate memory)' "$work/said" || { cat "$work/said"; give_up "$more MB: another error"; }
        echo "ok: $more MB: $(grep -A2 ERROR "$work/said" | tr '\n' ' ')"
        if grep -q 'HINT:.*ulimit' "$work/said"; then refused=$((refused + 1)); fi
    fi
    allow unlimited
    expect "the connection lives" "$backend" "$(answer "SELECT pg_backend_pid()")"
    disconnect
    [ "$said" != t ] || break
done
expect "the hint was given" t "$([ $refused -gt 2 ] && echo t)"
expect "what was refused left nothing" "$before" "$(q "SELECT count(*) FROM coupon.version")"
expect "no crash" "$started" "$(q "SELECT pg_postmaster_start_time()")"
