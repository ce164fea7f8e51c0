# dfm: `make help` lists what there is. Everything runs in .venv, which is made when it is not there.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo gallery test test-wide test-all test-faults lint format types check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: .venv/.installed ## make .venv and install dfm into it

demo: .venv/.installed ## train, sample and score the handwritten digits (about 5 minutes on 2 cores, no download)
	@$(BIN)/python scripts/demo.py

gallery: .venv/.installed ## draw the lecture's figures for two data sets in the plane (about 20 s)
	@$(BIN)/python scripts/gallery.py

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: .venv/.installed-dev ## the quick tests, a process per core (one thread each: they would get in each other's way)
	$(PYTEST)

test-wide: .venv/.installed-dev ## breadth: every preset, the commands of README and docs, pairs of processes, kills
	$(PYTEST) -m "wide and not faults"

test-all: .venv/.installed-dev ## the quick and the wide tests
	$(PYTEST) -m "not faults"

test-faults: .venv/.installed-dev ## the long set: runs killed at random, mangled files, more pairs of processes
	$(PYTEST) -m faults

lint: .venv/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed-dev ## the type checker
	$(BIN)/mypy

check: lint types test ## all that CI runs

clean: ## remove caches and .venv, keep outputs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
