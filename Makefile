# What people and CI run. Every target makes the virtual environment it needs: .venv, from constraints.txt.
#
#   make quickstart    the whole line on MovieLens-100K -> runs/quickstart/report.html
#   make serve         HTTP on 127.0.0.1:8000 over CONFIG's run;  make recommend TITLES="Toy Story (1995)|Heat (1995)"
#   make test          the tests        make check    format, lint, types, tests: the gate
#   make audit         the pinned packages against the published advisories; needs the network, so it is no part of the gate
#
# TEST_WORKERS test files run at once, each with a Ray cluster of its own where it needs one; 0 runs all in one process.
# ARGS passes settings on: make quickstart ARGS="train.num_epochs=3 run_dir=runs/other"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# pip would compile 24,000 files one after another, which takes a minute or two; compileall takes all cores.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
AUDIT_VENV := $(VENV)/audit
CONFIG ?= jobs/configs/quickstart.yaml
ARGS ?=
TEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
TITLES ?= Toy Story (1995)|Star Wars (1977)|Fargo (1996)

# Some images set it; then every process that Ray starts would compile this project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install quickstart serve recommend test test-fast check audit format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("l2d_ray needs Python 3.11 to 3.13, this is %s; set PYTHON=" % sys.version.split()[0] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(INSTALL) torch
	$(INSTALL) --editable ".[dev,cpu]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true # some packages hold files for other Pythons
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/python -m jobs.quickstart --config $(CONFIG) $(ARGS)

serve: $(STAMP)
	$(BIN)/python -m jobs.serve --config $(CONFIG) $(ARGS)

recommend: $(STAMP)
	@$(BIN)/python -m jobs.recommend "$(TITLES)"

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) --durations=40

# tests/test_dependencies.py holds that constraints.txt is what is installed. --strict: a package that could not be looked up fails it too.
audit:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet pip-audit
	$(AUDIT_VENV)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
