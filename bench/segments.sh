#!/usr/bin/env bash
# The elbow of k-means over 1 … 10 clusters in both dimensions, beside scikit-learn, on the same data, in turns.
#
#   ROUNDS (3)                        how often each runs
#   PEERS_PYTHON                      a Python with the peers' requirements
#   DATA, PEERS                       folders of online_retail.csv.gz and segments.py (../shared/data, ../shared/peers)
. "$(dirname "$0")/../scripts/common.sh"

rounds=${ROUNDS:-3}
data=${DATA:-$ROOT/../shared/data}
peers=${PEERS:-$ROOT/../shared/peers}
file=$data/online_retail.csv.gz
[ -f "$file" ] || die "no $file" "DATA names the folder it is in"
[ -n "${PEERS_PYTHON:-}" ] && [ -f "$peers/segments.py" ] || die "PEERS_PYTHON or $peers/segments.py is missing"

cargo build --quiet --release -p coupon_model --example segments
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for ((round = 1; round <= rounds; round++)); do
    "$TARGET/release/examples/segments" "$file" >>"$work/ours"
    "$PEERS_PYTHON" "$peers/segments.py" >>"$work/theirs"
done
cat "$work/ours" "$work/theirs"
echo
for dimension in spending behaviour; do
    # Medians of the seconds, and of all k the worst inertia over the peer's.
    for who in ours theirs; do
        sed -n "s/.* $dimension: customers [0-9]* seconds \([0-9.]*\) .*/\1/p" "$work/$who" | sort -g \
            | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}' >"$work/$who.seconds"
        sed -n "s/.* $dimension: .* inertia //p" "$work/$who" | head -n 1 | tr ' ' '\n' >"$work/$who.inertia"
    done
    paste "$work/ours.seconds" "$work/theirs.seconds" \
        | awk -v d="$dimension" '{printf "%s: %.3f s, scikit-learn %.2f s: %.4f of its time\n", d, $1, $2, $1 / $2}'
    paste "$work/ours.inertia" "$work/theirs.inertia" | awk '
        {r = $1 / $2; if (NR == 1 || r > worst) {worst = r; k = NR}; if (NR == 1 || r < least) least = r}
        END {printf "  inertia over that of scikit-learn, k = 1 … %d: %.4f to %.4f (highest at k = %d); at most 1.01 is wanted\n", NR, least, worst, k; exit worst > 1.01}'
done
