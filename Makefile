# The two commands that matter: `make demo` and `make test`. Each sets up what it needs on first use.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint types bench format clean

help:
	@echo "make demo       measure a small model, see it fail past its length, mend it, see it hold"
	@echo "make test       lint, types and tests"
	@echo "make setup      only prepare $(VENV)"
	@echo "make bench      every performance claim, measured side by side"
	@echo "make test-slow  the tests that take minutes"
	@echo "make format     let ruff rewrite the sources"
	@echo "make clean      remove $(VENV) and caches, keep runs/"

setup: $(STAMP)

# Redone only when a dependency changes: the sources are installed in place.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lengthwise needs Python 3.11 or newer; got '$(PYTHON)': $$($(PYTHON) --version 2>&1);" \
	       "name a newer one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV) (once; torch is a download of 200 MB or more)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup
	@$(BIN)/lengthwise demo

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "slow and not gpu and not network"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks all

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
