# shellcheck shell=bash
# Sourced after lib.sh by tests that watch one backend from outside: a psql that stays, and what /proc says of its
# process.

# One psql on descriptor 3; what it answers and what it is told lie in $work/answers and $work/said. Sets $backend.
connect() {
    rm -f "$work/in"
    mkfifo "$work/in"
    : >"$work/answers"
    : >"$work/said"
    psql -XAtq <"$work/in" >>"$work/answers" 2>>"$work/said" &
    client=$!
    exec 3>"$work/in"
    backend=$(answer "SELECT pg_backend_pid()")
}
disconnect() {
    exec 3>&-
    wait "$client" 2>/dev/null || true
}
begin() { printf '%s;\n' "$1" >&3; }

# answer SQL: what it answers, once it has
answer() {
    local asked=$RANDOM$RANDOM
    : >"$work/answers"
    begin "$1"
    printf '\\echo end %s\n' "$asked" >&3
    until grep -q "^end $asked$" "$work/answers"; do
        kill -0 "$client" 2>/dev/null || { cat "$work/said" >&2; give_up "the connection is gone" >&2; }
        sleep 0.01
    done
    grep -v "^end $asked$" "$work/answers" || true
}

# until_said PATTERN [SECONDS]: waits for a line on stderr, at most so long; sets $waited to how long it took
until_said() {
    local begun=$EPOCHREALTIME limit=${2:-60}
    until grep -q -- "$1" "$work/said"; do
        sleep 0.01
        waited=$(awk "BEGIN {print $EPOCHREALTIME - $begun}")
        awk "BEGIN {exit !($waited > $limit)}" && { cat "$work/said"; give_up "not heard in $limit s: $1"; }
    done
    waited=$(awk "BEGIN {print $EPOCHREALTIME - $begun}")
}

# Kilobytes of its own memory, shared buffers not counted; its number of threads.
anonymous() { sed -n 's/^RssAnon:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$backend/status"; }
threads() { cat /proc/"$backend"/task/*/comm 2>/dev/null | wc -l; }
