# Two commands for a newcomer, `make demo` and `make test`; each makes what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
EVALUATORS := .venv-evaluators
TRL := .venv-trl
TIANSHOU := .venv-tianshou
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test mutants matrix package audit lint types format docs serve bench bench-peers lineage validation clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo  ## train five seeds of every family on four datasets, print tables, draw figures (a quarter of an hour)
	$(BIN)/python docs/recipes/demo.py

test: $(VENV)/.test  ## every test of the library
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

mutants: $(VENV)/.test  ## which small faults the tests do not notice: make mutants ROOM=implicit (a minute for each room)
	$(BIN)/python tests/mutants.py $(ROOM)

matrix: $(VENV)/.test  ## the core on every PyTorch and Python that is claimed and is here (gigabytes; half an hour for each)
	$(INSTALL) nox
	$(BIN)/python -m nox --reuse-existing-virtualenvs

package: $(VENV)/.lint  ## build the distributions, install the wheel beside PyTorch alone, and run its examples
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv --clear dist/bare
	dist/bare/bin/python -m pip install --quiet --constraint constraints.txt torch
	dist/bare/bin/python -m pip install --quiet dist/*.whl
	dist/bare/bin/python tests/installed.py

audit: $(VENV)/.lint  ## whether a pinned package has a known vulnerability; fails where PyPI cannot say
	$(INSTALL) pip-audit
	$(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip --strict

lint: $(VENV)/.lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the site, in site/: every page, snippet and figure made anew, every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

serve: $(VENV)/.docs  ## the site on this machine, made anew when a page or the library changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --livereload

types: $(VENV)/.lint  ## how much of what a user imports has a known type: all of it
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/basedpyright --verifytypes offline_losses --ignoreexternal

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## time every function and three whole updates on this machine (about 25 minutes)
	$(BIN)/python -m benchmarks --sizes full --csv

bench-peers: $(PEERS)/.peers  ## the same, with TorchRL, d3rlpy, rlax and JAX beside it
	$(PEERS)/bin/python -m benchmarks --sizes full --csv --peers

lineage: $(PEERS)/.peers $(TRL)/.peers $(TIANSHOU)/.peers $(EVALUATORS)/obp  ## every recipe of the lineage beside the code of the released packages
	$(PEERS)/bin/python tests/peers/run.py rlax
	$(PEERS)/bin/python tests/peers/run.py TorchRL
	$(PEERS)/bin/python tests/peers/run.py d3rlpy
	$(TIANSHOU)/bin/python tests/peers/run.py tianshou
	$(TRL)/bin/python tests/peers/run.py TRL
	PYTHONPATH=$(EVALUATORS)/obp $(EVALUATORS)/bin/python tests/peers/run.py obp
	$(EVALUATORS)/bin/python tests/peers/run.py scope-rl

validation: $(VENV)/.test  ## hold off-policy evaluation against the truth, and against obp and scope-rl (about twenty minutes)
	$(BIN)/python -m validation
	$(MAKE) --no-print-directory $(EVALUATORS)/.peers || echo "obp and scope-rl cannot be installed here: not compared."
	test ! -e $(EVALUATORS)/.peers || $(EVALUATORS)/bin/python -m validation.peers

clean:
	rm -rf $(VENV) $(PEERS) $(EVALUATORS) $(TRL) $(TIANSHOU) .nox dist .pytest_cache .hypothesis .mypy_cache .ruff_cache results site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# icu-sepsis is read as data: its own dependencies, among them the retired gym, are not needed.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[demo]"
	$(INSTALL) --no-deps icu-sepsis
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(INSTALL) --editable ".[docs]"
	touch $@

$(VENV)/.test: $(VENV)/.docs
	$(INSTALL) --editable ".[test]"
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[bench]"
	touch $@

# PyTorch first, so that no peer chooses another one.
$(PEERS)/.peers: benchmarks/constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint $< torch
	$(PEERS)/bin/python -m pip install --quiet --constraint $< torchrl d3rlpy jax flax optax rlax rich scipy matplotlib
	touch $@

# Of the versions in that file, so that both import: obp asks for none of its own.
$(EVALUATORS)/.peers: benchmarks/constraints-peers.txt
	$(PYTHON) -m venv $(EVALUATORS)
	$(EVALUATORS)/bin/python -m pip install --quiet --constraint $< torch
	$(EVALUATORS)/bin/python -m pip install --quiet --constraint $< obp==0.4.1 scope-rl==0.2.1
	touch $@

# The newest obp, which asks for a Python before 3.11 and versions of that time, though its estimators run without them.
$(EVALUATORS)/obp: | $(EVALUATORS)/.peers
	$(EVALUATORS)/bin/python -m pip install --quiet --no-deps --ignore-requires-python --target $@ obp==0.5.7

# Of their own, so that no package's versions bind another's.
$(TRL)/.peers: Makefile
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet torch==2.13.0
	$(TRL)/bin/python -m pip install --quiet torch==2.13.0 trl==1.16.0
	touch $@

$(TIANSHOU)/.peers: Makefile
	$(PYTHON) -m venv $(TIANSHOU)
	$(TIANSHOU)/bin/python -m pip install --quiet torch==2.13.0
	$(TIANSHOU)/bin/python -m pip install --quiet torch==2.13.0 tianshou==2.0.1
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) ruff mypy basedpyright build
	touch $@
