# `make demo` runs the loop of this repository; `make help` lists everything.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# uv installs in a fraction of pip's time, but does not read pip's settings: it is told pip's index, and what it cannot find pip installs.
FAST = INDEX=$$($(PIP) config list | sed -n "s/^[^.]*\.index-url='\(.*\)'$$/\1/p" | tail -n 1); \
	UV_DEFAULT_INDEX=$${INDEX:-$${UV_DEFAULT_INDEX:-https://pypi.org/simple}} $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt $(1) \
	|| { echo "uv could not do it; pip does it, which takes longer."; $(PIP) install -c constraints.txt $(1); }
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Every step is a process of its own: without compiled modules beside them each would compile some thousand of them anew, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test accept nightly check clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | awk -F '\t' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo "  PYTHON=python3.12 names another interpreter (3.11 or newer); VENV=DIR another virtual environment."

$(VENV)/created:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not found. Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a minute or a few, once)."
	$(PIP) install -c constraints.txt torch uv
	@$(call FAST,-e .)
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "Installing what tests and checks need."
	@$(call FAST,-e ".[test]")
	@touch $@

install: $(VENV)/installed ## the package and its dependencies, into .venv

demo: $(VENV)/installed ## the whole loop on real photos and generated scenes
	$(BIN)/florence loop
	@echo
	@echo "Look at      build/report/index.html        (any browser; no network needed)"
	@echo "The facts    build/loop.json"
	@echo "The runs     $(BIN)/mlflow ui --backend-store-uri sqlite:///build/mlflow.db"
	@echo "Ask it       $(BIN)/florence predict IMAGE --task '<OD>' --draw out.png"

test: $(VENV)/installed-test ## the tests, on WORKERS processes (about ten minutes on two cores)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

accept: $(VENV)/installed-test ## the slow end-to-end proofs
	$(BIN)/python -m pytest -m accept

nightly: check test accept ## everything that is proven: for a schedule of every night (about an hour and a half)

check: $(VENV)/installed-test ## ruff, formatting, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove what the loop made here: build/, .florence/, data/, model/, scores/ (not .venv, not the DVC cache)
	rm -rf build .florence data model scores
