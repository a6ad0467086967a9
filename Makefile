# The only entry. `make help` says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

# A shell that was open before rustup was installed does not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
DATA ?= .tollgate/demo
TARGET := $(or $(CARGO_TARGET_DIR),target)
TOLLGATE := $(TARGET)/debug/tollgate
PACKS := $(patsubst policies/%/pack.yaml,%,$(wildcard policies/*/pack.yaml))
SCENARIOS = $(wildcard fixtures/scenarios/*.yaml)

##@ Every day

.PHONY: run
run: setup build ## Start everything in one process, and print what to try (PORT_BASE=N for other ports)
	exec $(TOLLGATE) demo --data $(DATA) $(if $(PORT_BASE),--port-base $(PORT_BASE))

.PHONY: test
test: setup-test ## Run all tests, on a Redis and a PostgreSQL that it starts and stops by itself
	$(CARGO) build --locked -p cli
	scripts/services with scripts/test

.PHONY: demo
demo: setup build ## Run the scenarios of fixtures/scenarios and print what happened
	$(TOLLGATE) scenario $(or $(SCENARIOS),$(error there is nothing in fixtures/scenarios))

.PHONY: lint
lint: setup ## Check format and clippy, in the workspace, the packs and their SDK (supply chain: make deny)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path policies/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path plugins/sdk/Cargo.toml
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --all-targets --locked --manifest-path policies/Cargo.toml --target-dir policies/target -- -D warnings
	$(CARGO) clippy --all-targets --manifest-path plugins/sdk/Cargo.toml --target-dir $(TARGET)/sdk -- -D warnings
	$(CARGO) clippy --target wasm32-unknown-unknown --manifest-path plugins/sdk/Cargo.toml --target-dir $(TARGET)/sdk -- -D warnings

.PHONY: fmt
fmt: setup ## Format all Rust code
	$(CARGO) fmt --all
	$(CARGO) fmt --all --manifest-path policies/Cargo.toml
	$(CARGO) fmt --all --manifest-path plugins/sdk/Cargo.toml

##@ Parts

.PHONY: setup
setup: ## Install what a build needs and say what was done; quick when all is there
	@scripts/setup

.PHONY: setup-test
setup-test: ## The same, with the servers of the tests
	@scripts/setup test

.PHONY: build
build: setup ## Build target/debug/tollgate
	$(CARGO) build --locked -p cli

.PHONY: packs
packs: setup build ## Build the reference packs from source, as unsigned pack files in target/packs
	for pack in $(PACKS); do $(TOLLGATE) pack build policies/$$pack --out $(TARGET)/packs; done

##@ Takes longer

.PHONY: test-all
test-all: export TOLLGATE_TEST_LONG := 1
test-all: lint test demo ## Lint, all tests in their full sizes, and the scenarios

.PHONY: api-test
api-test: setup-test build ## Test the admin API by its own description alone (ARGS=--help for its options)
	scripts/api-test $(ARGS)

.PHONY: test-streams
test-streams: ## Test NATS JetStream and Kafka as sources and sinks, on a NATS server and librdkafka's own mock of a cluster
	@scripts/setup streams
	$(CARGO) test --locked -p streams --features nats,kafka

ROUNDS ?= 10
CASES ?= 50000

.PHONY: chaos
chaos: setup-test build ## Kill processes that hold idempotency records, ROUNDS times and in full; take Redis away from quotas, and dispatchers and the store away from webhooks, in full
	for round in $$(seq $(ROUNDS)); do \
	  echo "round $$round of $(ROUNDS)"; \
	  $(CARGO) test --locked -q -p store a_killed_process && \
	  $(CARGO) test --locked -q -p tests --test it process_was_killed || exit 1; \
	done
	TOLLGATE_TEST_LONG=1 scripts/services with \
	  $(CARGO) test --locked -p tests --test it -- keys_under_kills keys_arrive_once quotas_ webhooks_accepted webhooks_under_kills webhooks_in_order webhooks_replayed webhooks_neighbour \
	    --nocapture --test-threads 1

.PHONY: fuzz
fuzz: setup ## Random histories and inputs against the state machines, CASES of each; a failure prints its seed
	PROPTEST_CASES=$(CASES) $(CARGO) test --locked -p model -- any_interval windows_follow at_most_one_dispatch

.PHONY: bench
bench: setup ## Measure what a request costs, beside a bare pingora, in one run (ARGS=--help for its options)
	$(CARGO) build --locked --release -p bench -p cli
	$(TARGET)/release/bench $(ARGS)

# So many that a 99th percentile tells a neighbour from chance.
PACK_REQUESTS ?= 160000

.PHONY: bench-packs
bench-packs: ## Measure policy packs alone: a decision, 1,000 attachments in one process, a version on its way
	@$(MAKE) bench ARGS='--parts packs --requests $(PACK_REQUESTS) $(ARGS)'

.PHONY: bench-quotas
bench-quotas: setup-test ## Measure decisions about limits alone: in process, on Redis, prepaid, beside a plain INCR
	@$(MAKE) bench ARGS='--parts counters $(ARGS)'

# So few that all that is kept for a minute, in each store, has room; a claim waits for the disk.
KEY_REQUESTS ?= 8000

.PHONY: bench-keys
bench-keys: setup-test ## Measure what an Idempotency-Key costs, in each store, on a Redis and a PostgreSQL that write to the disk
	$(CARGO) build --locked --release -p bench -p cli
	TOLLGATE_TEST_DURABLE=1 scripts/services with $(TARGET)/release/bench --parts keys --requests $(KEY_REQUESTS) $(ARGS)

# Of each measurement: the larger, the longer a drain.
WEBHOOK_EVENTS ?= 20000

.PHONY: bench-webhooks
bench-webhooks: ## Measure webhooks alone: accepting, delivering, and the time in between
	@$(MAKE) bench ARGS='--parts webhooks --requests $(WEBHOOK_EVENTS) $(ARGS)'

DENY_VERSION := 0.20.2
DENY := $(TARGET)/tools/bin/cargo-deny

.PHONY: deny
deny: setup $(DENY) ## Check licences, advisories and duplicates (deny.toml). Not part of lint: it compiles cargo-deny once
	$(DENY) --locked --all-features check
	$(DENY) --locked --all-features --manifest-path policies/Cargo.toml --config deny.toml check

$(DENY):
	@echo 'deny: cargo-deny $(DENY_VERSION) is not there; compiling it, once, takes some minutes'
	$(CARGO) install --locked --root $(TARGET)/tools --version $(DENY_VERSION) cargo-deny

##@ Aliases

.PHONY: run-api-integration-hub demo-api-integration-hub
run-api-integration-hub: run ## = run
demo-api-integration-hub: demo ## = demo

.PHONY: migrate
migrate: setup build ## Bring the schema of the database in DATA up to date (every start does it, too)
	$(TOLLGATE) migrate --data $(DATA)

.PHONY: seed-fixtures
seed-fixtures: setup build ## Fill DATA with the demo's document and packs, and start nothing
	$(TOLLGATE) demo --data $(DATA) --seed-only

.PHONY: help
help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-26s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
