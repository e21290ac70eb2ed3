# Every target sets up what it needs in .venv; a fresh machine needs Python 3.11 or later and make, and git for the tests.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 3
STORE ?= pgvector
LAYOUT ?= collections
SOAK_SEED ?= 20
SOAK_SECONDS ?= 20
BENCHES := backfill wal application changes removals freshness searcher cutover gate neighbour routes adapters
BENCH ?=
SLICE_SECONDS ?= 60
# Bytecode is kept: without it each of the hundreds of processes of a test run compiles every library anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## what you can run
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("embed-pipeline needs Python 3.11 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[demo,dev]'
	@touch $@

.PHONY: demo
demo: $(READY) ## one migration end to end on real text, under traffic, with two real models; STORE=qdrant (LAYOUT=named_vectors) without a server
	$(BIN)/embed-pipeline demo --store $(STORE) --layout $(LAYOUT)

.PHONY: test
test: lint ## lint, then every test but the fault campaign and other long ones
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not soak'

.PHONY: slice
slice: $(READY) ## a slice of the fault campaign: what SOAK_SEED draws first, on two cores, for SLICE_SECONDS
	SOAK_SEED=$(SOAK_SEED) SOAK_SECONDS=0 SLICE_SECONDS=$(SLICE_SECONDS) $(BIN)/python -m pytest -n 2 --maxschedchunk=1 -m soak tests/faults/campaign -o faulthandler_timeout=600

.PHONY: lint
lint: $(READY) ## formatting, lint rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: docs
docs: $(READY) ## write what is generated: the tables of docs/races.md and docs/faults.md, the modules in each package's README, the codes of errors, the reference of Python
	$(BIN)/python -m tests.mutations.pages
	$(BIN)/python -m tests.harness.rooms
	$(BIN)/python -m tests.harness.errors_page
	$(BIN)/python -m tests.harness.python_page

.PHONY: pictures
pictures: $(READY) ## draw every picture of the docs anew, by the demo and by headless Chromium (Debian's package `chromium`)
	$(BIN)/python -m tests.end_to_end.pictures

.PHONY: dev
dev: $(READY) ## the Dagster UI on the same index as the demo
	$(BIN)/python -m embed_pipeline.dagster_layer.dev

.PHONY: bench
bench: $(READY) ## every figure, one after another, small; BENCH=--full for the sizes that count, bench-NAME for one (benchmarks/README.md)
	@for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name $(BENCH) || exit 1; done

.PHONY: $(BENCHES:%=bench-%)
$(BENCHES:%=bench-%): bench-%: $(READY)
	$(BIN)/python -m benchmarks.$* $(BENCH)

.PHONY: bench-vecshift
bench-vecshift: $(READY) ## backfill against vecshift's migration of the same documents; installs it into .venv-vecshift
	$(BIN)/python -m benchmarks.vecshift $(BENCH)

.PHONY: bench-providers
bench-providers: $(READY) ## requests in flight at a provider that answers at once, and what the pipeline itself costs
	$(BIN)/python -m benchmarks.providers

.PHONY: bench-fleet
bench-fleet: $(READY) ## a backfill by 1, 2 and 4 workers of a provider that takes 200 ms
	$(BIN)/python -m benchmarks.fleet $(BENCH)

.PHONY: gate-rates
gate-rates: $(READY) ## how often the gate errs, by simulation: the table of docs/gate.md; some minutes
	$(BIN)/python -m benchmarks.gate_rates --write

.PHONY: watch-rates
watch-rates: $(READY) ## how often a watch after a cutover errs, by simulation: the table of docs/watch.md; a quarter of an hour
	$(BIN)/python -m benchmarks.watch_rates --write

.PHONY: limits
limits: $(READY) ## what several processes get out of an account's limits: never more in any minute, above 95 % of it
	$(BIN)/python -m benchmarks.limits

.PHONY: soak
soak: $(READY) ## the whole fault campaign, other long tests and mutation testing; SOAK_SEED and SOAK_SECONDS (per scenario) choose what is run and for how long
	@echo "SOAK_SEED=$(SOAK_SEED) SOAK_SECONDS=$(SOAK_SECONDS)"
	SOAK_SEED=$(SOAK_SEED) SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk=1 -m soak -o faulthandler_timeout=1800

.PHONY: other-servers
other-servers: $(READY) ## the tests of the database on PostgreSQL 16 and on pgvector 0.8.1 and 0.8.2; installs them into .servers
	WORKERS=$(WORKERS) $(BIN)/python -m pytest -m soak tests/other_servers -o faulthandler_timeout=7200

.PHONY: live
live: $(READY) ## the provider tests against the real services whose keys are in the environment (less than a cent)
	EMBED_PIPELINE_LIVE=1 $(BIN)/python -m pytest -rs tests/unit/providers/test_contract.py -k live

.PHONY: clean
clean: ## stop the embedded PostgreSQL and remove what was set up
	-[ -x $(BIN)/embed-pipeline ] && $(BIN)/embed-pipeline db stop
	rm -rf $(VENV) .venv-vecshift .servers .embed_pipeline
