# One command a question. Each installs what is missing first; a second run takes seconds where nothing changed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check stress crash fuzz bench package install doc reference fmt lint clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: PostgreSQL 15 and its headers, libclang, cargo-pgrx
	@scripts/setup.sh

demo: setup ## the whole flow on a simulated shop, or on a real log: make demo LOG=path
	@LOG='$(LOG)' scripts/demo.sh

test: setup ## everything that must hold: format, lints, crate, SQL, isolation, real servers
	@scripts/test.sh

check: setup ## some of the SQL tests again: make check ONLY='regress/issue isolation server/once'; SEED=n repeats an order
	@scripts/install.sh
	@CLUSTER_CONF='wal_level = logical' scripts/cluster.sh run test -- tests/run.sh $(ONLY)

stress: setup ## the server tests of issuing at full size: a model, 64 clients, two million coupons; SEED=n repeats one
	@scripts/install.sh
	@JOBS=1 STRESS=full SERVER_TEST_SECONDS=7200 scripts/cluster.sh run stress -- tests/run.sh \
		server/model server/hammer server/transactions server/sweep server/hot

crash: setup ## kill -9 of backends and of the whole server, fifty times under load
	@scripts/install.sh
	@STRESS=full SERVER_TEST_SECONDS=7200 scripts/cluster.sh run stress -- tests/run.sh server/crash

fuzz: ## a million inputs to everything that reads bytes from outside: artefacts, networks, live sessions
	@PROPTEST_CASES=250000 cargo test --quiet -p coupon_model --test fuzz

bench: setup ## how fast, as ratios measured side by side
	@bench/run.sh
	@if [ -n "$$PEERS_PYTHON" ]; then bench/score.sh; INPUTS=by_session ROUNDS=3 bench/score.sh; bench/segments.sh; \
		bench/issue.sh; "$$PEERS_PYTHON" -W ignore bench/step.py target/release/examples/bench_step 5; fi

package: setup ## a tar file to unpack over a machine that runs PostgreSQL 15
	@scripts/package.sh

install: setup ## build the extension and install it into this machine's PostgreSQL 15
	@scripts/install.sh

doc: setup ## rustdoc of all crates, without a warning: target/doc/coupon_ext/index.html
	@RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --document-private-items

reference: setup ## docs/reference.md anew, from the catalogue of the installed extension and the specifications
	@scripts/install.sh
	@scripts/cluster.sh run reference -- bash -euc 'createdb reference; export PGDATABASE=reference; \
		psql -XAtq -c "CREATE EXTENSION coupon_ext" -c "SELECT coupon.create_storage()" >/dev/null; \
		scripts/reference.sh >target/reference.md; mv target/reference.md docs/reference.md'

fmt: ## format the Rust sources
	@cargo fmt --all

lint: setup ## formatting and clippy, warnings are errors
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings

clean: ## stop the throw-away clusters and remove target/
	@scripts/cluster.sh clean
	@rm -rf target
