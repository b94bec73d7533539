#!/usr/bin/env bash
# Proves, with 64 connections on one code, one budget, one customer's limit and one session: nothing is redeemed twice
# or overspent at any instant, no limit is passed, nothing deadlocks, fails or is lost.
. "$(dirname "$0")/lib.sh"
stress hammer 64 "${ATTEMPTS:-$(full 100000 3000)}" "${SEED:-$(full $RANDOM 1)}"
amcheck
