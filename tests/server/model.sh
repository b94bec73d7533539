#!/usr/bin/env bash
# Proves: through a random walk of clicks, offered codes, cancelled orders, sweeps, changed budgets and terms, some of
# it rolled back, every answer, every budget and every coupon is what a model written from docs/issue.md says. SEED
# repeats a walk.
. "$(dirname "$0")/lib.sh"
stress model "${STEPS:-$(full 20000 1500)}" "${SEED:-$(full $RANDOM 1)}"
amcheck
