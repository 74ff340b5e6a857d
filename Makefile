# `make` lists the targets. Everything is installed into .venv; a second run is instant.
PYTHON ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
# Many tests wait for something, so there is work for more processes than cores.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)

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
.PHONY: help dev demo test lint types unit examples test-matrix package bench bench-peers bench-scenarios clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.\/-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  Variables: PYTHON=python3.12 DEMO_ARGS='...' PYTEST_ARGS='...' JOBS=3"

dev: $(VENV)/dev ## the environment for development

demo: $(VENV)/demo ## install with a bundled Postgres and run `werk demo $(DEMO_ARGS)`
	$(BIN)/werk demo $(DEMO_ARGS)

test: lint types unit examples ## everything: format, lint, import contracts, types, all tests

lint: $(VENV)/dev ## ruff (format and rules), spelling, generated files and the import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python tools/unasync.py --check
	$(BIN)/lint-imports --config setup.cfg

types: $(VENV)/dev ## mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

unit: $(VENV)/dev ## the tests, on $(JOBS) processes; PYTEST_ARGS='-k name'
ifeq ($(strip $(PYTEST_ARGS)),)
	@rm -f .coverage .coverage.*
	@# A test that fails beside others and passes alone was starved; one that fails alone, too, is a failure.
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal --maxfail=60 \
		|| { echo "== what failed, once more, alone"; $(BIN)/pytest -n0 --last-failed --last-failed-no-failures none; }
	@echo "== what does not survive being traced"
	$(BIN)/pytest -n0 -q -m untraced
	@$(BIN)/coverage combine --quiet
	@# Only the figure; the lines that were missed when it is too low.
	@total=$$($(BIN)/coverage report --format=total) && echo "coverage: $$total %" || { $(BIN)/coverage report; exit 1; }
else
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)
endif

examples: $(VENV)/dev ## the tests of every example
	@set -e; for dir in $(EXAMPLES); do \
		echo "== $$dir"; (cd "$$dir" && $(CURDIR)/$(BIN)/python -m pytest tests); \
	done

test-matrix: $(VENV)/dev ## the tests on every Python and every Postgres that is here; PYTHONS and POSTGRES_BINS name others
	JOBS=$(JOBS) .ci/matrix.sh $(PYTEST_ARGS)

package: $(VENV)/dev ## build wheel and sdist into dist/, check what is inside, and use the wheel
	.ci/package.sh

bench: $(VENV)/dev ## the benchmarks, against a throw-away server
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-peers: $(VENV)/dev ## pgwerk beside other queues, each installed in .venv-peers; BENCH_ARGS='--only NAME'
	$(BIN)/python -m benchmarks.peers $(BENCH_ARGS)

bench-scenarios: $(VENV)/dev ## every scenario of the benchmarks, small: does it work?
	$(BIN)/python -m benchmarks --quick $(addprefix --only ,$(SCENARIOS)) $(BENCH_ARGS)

clean: ## remove .venv, .venv-3.*, caches and build output
	rm -rf $(VENV) .venv-3.* build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage .coverage.*
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
