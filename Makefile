# Two commands do everything on a fresh machine with Python 3.11 or later and make: `make serve` and `make test`.
.PHONY: help serve test lint bench verify clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE_FLAGS ?=
INPUTS := pyproject.toml constraints.txt

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Axon needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(INPUTS)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

serve: $(VENV)/.installed  ## install, start Ray and the service on 127.0.0.1:8000 with the shipped models
	$(BIN)/axon serve --auth off $(SERVE_FLAGS)

# --capture=sys: Ray can end a process from its native code, and what it says then must not be lost with the capture of the test.
test: lint  ## what CI runs: lint, then every test in its short form; those with a real cluster have the machine for themselves
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster"
	$(BIN)/python -m pytest -m cluster --capture=sys

lint: $(VENV)/.installed-dev  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev  ## throughput against the obvious composition and plain FastAPI, side by side
	$(BIN)/python -m tests.load.bench

verify: $(VENV)/.installed-dev  ## the long forms of the tests: minutes to hours
	AXON_VERIFY=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster"
	AXON_VERIFY=1 $(BIN)/python -m pytest -m cluster --capture=sys

clean:  ## remove the virtual environment and what a running Axon wrote
	rm -rf $(VENV) var
