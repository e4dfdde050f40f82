# `make demo` and `make test` do all the set-up themselves, from a bare clone, with pip alone.
# What they install is pinned by constraints.txt; the stamps in .venv make the second run quick.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install -qq -c constraints.txt
SOURCES := hatch_build.py $(shell find src -type f ! -name '*.pyc' ! -name '*.so')
PINS := pyproject.toml constraints.txt

# The commands must find the installed package and nothing else.
unexport PYTHONPATH PYTHONHOME

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test lint format types check build clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## install, check two networks under six starts, write the page
	@$(VENV)/bin/initium demo --out out

test: $(VENV)/.package $(VENV)/.test ## install what the tests need and run the whole suite
	@$(RUN) -m pytest -n 2 $(ARGS)

lint: $(VENV)/.dev ## ruff: rules and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(VENV)/.dev ## ruff: rewrite the code in the project's format
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

types: $(VENV)/.package $(VENV)/.dev ## mypy --strict
	@$(VENV)/bin/mypy

check: lint types test ## lint, types and tests

build: $(VENV)/.dev ## wheel and source archive into dist/
	@rm -rf dist
	@$(RUN) -m build --no-isolation

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) dist build out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "initium needs Python 3.11 or later; this is " + sys.version.split()[0] + \
	    ". Fix: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# A plain, not an editable install: what is tested and shown is the package as users get it.
$(VENV)/.package: $(PINS) README.md LICENSE $(SOURCES) | $(VENV)/.python
	@echo "installing initium into $(VENV) (the first time about a minute)"
	@$(PIP) hatchling
	@$(PIP) --no-build-isolation .
	@touch $@

# The packages of models ask for a newer torch than the pinned one, or for more of it: without needs.
MODELS := timm torchvision vit-pytorch x-transformers torch-einops-utils peft accelerate diffusers

$(VENV)/.test: $(PINS) | $(VENV)/.package
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) --no-build-isolation '.[test]'
	@$(PIP) --no-deps $(MODELS)
	@touch $@

$(VENV)/.dev: $(PINS) | $(VENV)/.python
	@echo "installing the development tools into $(VENV)"
	@$(PIP) build hatchling mypy ruff
	@touch $@
