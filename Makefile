# Two commands do everything on a fresh machine with Python 3.11 or later and make: `make serve` and `make test`.
.PHONY: help serve test fast cluster lint bench verify clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE_FLAGS ?=
INPUTS := pyproject.toml constraints.txt

help:  ## list the targets
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

test: lint fast cluster  ## lint, then every test in its short form, as CI runs them

# One thread for each worker: they share the cores. A fork copies the tables of all memory that the
# process has, so the tests that fork have a process that imports little.
fast: $(VENV)/.installed-dev  ## the tests that start no Ray cluster, on every core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster and not forks"
	$(BIN)/python -m pytest -n auto -m forks tests/faults/test_crash_points.py

# --capture=sys: Ray can end a process from its native code; its last output must not be lost with the capture of the test.
cluster: $(VENV)/.installed-dev  ## the tests that start a Ray cluster, one after the other
	$(BIN)/python -m pytest -m cluster --capture=sys

lint: $(VENV)/.installed-dev  ## ruff, mypy --strict and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(VENV)/.installed-dev  ## throughput against the obvious composition and plain FastAPI, side by side
	$(BIN)/python -m tests.load.bench

verify: $(VENV)/.installed-dev  ## the long forms of the tests: minutes to hours
	AXON_VERIFY=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster"
	AXON_VERIFY=1 $(BIN)/python -m pytest -m cluster --capture=sys

clean:  ## remove the virtual environment and what a running Axon wrote
	rm -rf $(VENV) var
