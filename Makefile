# Everything from a clone on Debian 12 with python3 and make. `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help install dev demo test check run bench fuzz simulate chaos fmt docs lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: install ## Run the main job on built-in phones and an inbox, and show the proof
	@$(BIN)/dosvoces demo

# Most tests wait for timers, phones and processes. One that fails is tried twice more, and the last line counts those
# ("rerun"): phones and a machine that do much else at the time have clocks of their own.
TESTS_AT_ONCE ?= 3
test: dev ## Install what the tests need, then run them all
	@scripts/debian-packages
	@$(BIN)/pytest --numprocesses $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder --reruns 2 $(ARGS)

check: dev ## What CI checks beside the tests: format, lint, types, the direction of imports
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/pytest --quiet tests/test_architecture.py

run: install ## Start the service with ./dosvoces.toml, or with nothing configured
	@$(BIN)/dosvoces serve

bench: dev ## Measure, as JSON and as a table; ARGS="--quick" for a look, ARGS="--help" for more
	@$(BIN)/python -m bench $(ARGS)

FUZZ_S ?= 60
fuzz: dev ## Fuzz the parsers, FUZZ_S seconds each (60), and tell the coverage; ARGS="sdp rtp" for some of them
	@PYTHONPATH=. $(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) $(ARGS)

SEED ?= 1
CONNECTIONS ?= 100000
simulate: dev ## Simulate CONNECTIONS (100000) from SEED (1): loss, crashes, bad phones; ARGS="--only K" reads one again
	@PYTHONPATH=. $(BIN)/python -m tests.simulation --seed $(SEED) --connections $(CONNECTIONS) $(ARGS)

CHAOS_S ?= 120
chaos: dev ## Kill and freeze services under load for CHAOS_S seconds (120), then check what phones and mails saw; CHAOS_SEED=7
	@scripts/debian-packages
	@PYTHONPATH=. $(BIN)/python -m tests.chaos --seconds $(CHAOS_S) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(ARGS)

install: $(VENV)/run.stamp ## Set up .venv with .venv/bin/dosvoces; nothing is done twice

dev: $(VENV)/dev.stamp

# Versions and hashes are pinned; the package itself is installed in place, with the pinned setuptools.
$(VENV)/run.stamp: requirements/run.txt pyproject.toml scripts/venv
	@echo "Setting up $(VENV), about a minute the first time"
	@scripts/venv $(VENV)
	@$(PIP) --require-hashes --requirement requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "Adding the tools for tests and checks"
	@$(PIP) --require-hashes --requirement requirements/dev.txt
	@touch $@

fmt: dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: install ## Write the generated pages anew
	@$(BIN)/dosvoces reference docs

lock: ## Pin the requirements anew from pyproject.toml; needs uv
	@scripts/lock

clean: ## Remove what was built and cached; the record (*.db) stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage src/*.egg-info
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
