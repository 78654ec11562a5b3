# The environment is made once, in .venv, from pyproject.toml and constraints.txt.
# On a machine of your own every target works alone; `make help` lists them.

PYTHON ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11, \
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null))),python3)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
INSTALL := --constraint $(CONSTRAINTS) --editable ".[book,test]"
PROFILE ?= quick
DEVICE ?= cpu
JAX ?= pinned
PORT ?= 8000
XDIST ?= -n 2
NOTEBOOKS := $(wildcard book/*.ipynb)
EXPERIMENTS := $(filter $(patsubst book/%.md,%,$(wildcard book/*.md)), \
	$(patsubst book/experiments/%.py,%,$(wildcard book/experiments/*.py)))
FAST_SOFT_SORT := google-research/fast-soft-sort@6a52ce79869ab16e1e0f39149a84f50f8ad648c5
FROM_SOURCE := torchsort==0.1.10 git+https://github.com/$(FAST_SOFT_SORT)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(DEVICE)-$(JAX)
ifneq ($(DEVICE),gpu)
export JAX_PLATFORMS ?= cpu
endif
export PYTHONHASHSEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help env book test lint types unit doctests pairs notebooks html-test serve refresh bench \
	experiments linkcheck constraints clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "diffopt needs Python 3.11 or newer, and $(PYTHON) is not:" \
	       "install one, or name it: make $(or $(MAKECMDGOALS),book) PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python $(INSTALL) \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
ifeq ($(JAX),oldest)
	@$(BIN)/uv pip install --python $(BIN)/python \
	  "jax==$$(sed -n 's/.*"jax>=\([0-9.]*\),.*/\1/p' pyproject.toml)"
else ifeq ($(JAX),newest)
	@$(BIN)/uv pip install --python $(BIN)/python --upgrade-package jax --upgrade-package jaxlib \
	  --editable .
endif
ifeq ($(DEVICE),gpu)
	@$(BIN)/uv pip install --python $(BIN)/python --constraint $(CONSTRAINTS) --editable ".[cuda]"
endif
	@rm -f $(VENV)/.installed-* && touch $@

env: $(STAMP) ## create the environment in .venv

book: $(STAMP) ## execute the chapters, build the HTML, print where it is
	@$(BIN)/python book/build.py html --profile $(PROFILE)

test: lint types unit doctests pairs notebooks ## lint, types, unit tests, doctests, pairs, notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest $(XDIST) --dist loadfile --ignore tests/html \
	  --ignore tests/test_pairs.py tests

doctests: $(STAMP)
	$(BIN)/python -m pytest $(XDIST) --dist loadfile --doctest-modules diffopt

pairs: $(STAMP)
	$(BIN)/python -m pytest tests/test_pairs.py

notebooks: $(STAMP)
	$(if $(NOTEBOOKS),$(BIN)/python -m pytest $(XDIST) --dist loadfile --nbval --nbval-current-env \
	  --nbval-cell-timeout 600 $(NOTEBOOKS),@echo "No chapter has a notebook yet")

html-test: $(STAMP) ## tests of the built HTML (after `make book`)
	$(BIN)/python -m pytest $(XDIST) tests/html

serve: book ## build the book and serve it on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

refresh: $(STAMP) ## execute the chapters, store their text outputs in the .ipynb, draw the cards
	@$(BIN)/python book/images.py
	@$(BIN)/python book/build.py refresh

bench: $(STAMP) ## compare with other packages (installs the extra [peers])
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) \
	  --editable ".[peers]"
	@for peer in $(FROM_SOURCE); do $(BIN)/uv pip install --quiet --python $(BIN)/python \
	  --constraint $(CONSTRAINTS) --no-build-isolation setuptools wheel $$peer \
	  || echo "$$peer does not install here: left out"; done
	$(BIN)/python -m book.bench

experiments: $(STAMP) ## run every experiment: make experiments PROFILE=paper DEVICE=gpu
	@for chapter in $(EXPERIMENTS); do echo "$$chapter"; \
	  $(BIN)/python -m book.experiments.$$chapter --profile $(PROFILE) --device $(DEVICE) || exit 1; \
	done

linkcheck: $(STAMP) ## check the links that leave the book (needs a network)
	@$(BIN)/python book/build.py linkcheck

constraints: $(STAMP) ## resolve constraints.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra book --extra test \
	  --no-header --no-annotate --upgrade pyproject.toml --output-file constraints.txt

clean: ## remove what was built, keep the environment
	rm -rf _build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find book diffopt tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
