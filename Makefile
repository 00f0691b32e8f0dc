# Needs GNU make 3.81 or newer and Python 3.11 or newer; works in any folder, as root or not.
# All that is installed lies in .venv and .tools. PYTHON=python3.12 picks a Python.
VENV := .venv
BIN := $(VENV)/bin
SOURCES := indexer tests

# Tests and benchmarks start their own servers: they must never meet the ones of the shell they are called from.
ALONE := env -u DATABASE_URL -u VALKEY_URL -u REDIS_URL -u ERC8004_CONFIG -u ERC8004_DATA_DIR
ANVIL := import pathlib, sys; from indexer.demo.anvil import ensure_anvil; sys.tracebacklimit = 0; ensure_anvil(pathlib.Path())

.DEFAULT_GOAL := help
.PHONY: help demo test fmt bench soak simulator contracts clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1 - /p' Makefile

demo:  ## index a local chain with live traffic; ends by itself with ARGS="--until head --json"
	@.ci/venv
	@$(BIN)/erc8004-indexer demo $(ARGS)

test:  ## all checks: format, lint, types, import direction, tests with coverage
	@.ci/venv dev
	@$(BIN)/python -c '$(ANVIL)'
	@$(BIN)/ruff format --check --quiet $(SOURCES) || { echo "error: not in the project's format; run make fmt" >&2; exit 1; }
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports --no-cache --no-logo) || { echo "$$out" >&2; exit 1; }
	@$(ALONE) $(BIN)/pytest -q -n 2 --cov

fmt:  ## put every file into the project's format
	@.ci/venv dev
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

bench:  ## measure decoding, committing, backfills and live blocks on this machine: a JSON line each; ARGS="--logs 1000000"
	@.ci/venv dev
	@$(ALONE) PYTHONPATH=tests:tests/end_to_end $(BIN)/python -m bench $(ARGS)

soak:  ## whole worlds from fresh seeds for SECONDS=600, two at a time; SEED="1 2" repeats some; LONG=1 is one world, measured
	@.ci/venv dev
	@$(ALONE) PYTHONPATH=tests:tests/end_to_end $(BIN)/python -m soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(LONG),--long) $(ARGS)

simulator:  ## serve a lying, failing, reorganising chain for use by hand; ARGS="--seed 1 --port 8545"
	@.ci/venv dev
	@PYTHONPATH=tests $(BIN)/python -m simulator $(ARGS)

contracts:  ## compile tests/contracts into indexer/demo/artifacts (needs npm; the result is committed)
	npm install --prefix .tools --no-audit --no-fund --ignore-scripts solc@0.8.37
	NODE_PATH=.tools/node_modules node tests/contracts/compile.cjs

clean:  ## remove all that make installed and the caches
	rm -rf .venv .tools build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
