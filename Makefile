# Two commands for a newcomer, `make demo` and `make test`; each makes what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo  ## train every family on three datasets, print the table, draw the figures (about six minutes)
	$(BIN)/python docs/recipes/demo.py

test: $(VENV)/.test  ## every test of the library
	$(BIN)/python -m pytest --numprocesses auto

lint: $(VENV)/.lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache results

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# icu-sepsis is read as data: its own dependencies, among them the retired gym, are not needed.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[demo]"
	$(INSTALL) --no-deps icu-sepsis
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(INSTALL) --editable ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) ruff mypy
	touch $@
