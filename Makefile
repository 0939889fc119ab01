# Everything a fresh machine needs is Python 3.11 or newer, with venv, and make.

VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$python; break; fi; done)

.PHONY: help install demo test lint types wheels bench chaos fuzz ci clean

help:  ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## Make the virtual environment with everything for work on the code

$(VENV)/installed: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		pip setuptools hatchling editables
	$(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt \
		-e '.[embedded,postgresql,testing,demo]' $(PLUGINS:%=-e %) --group dev
	@touch $@

demo: install  ## See one write reach every channel, on real servers
	$(BIN)/kinto-dispatch demo

PYTEST_ARGS ?= -n auto --dist worksteal

test: install  ## Run the tests on real servers
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Check types, strictly
	$(BIN)/mypy kinto_dispatch $(foreach plugin,$(PLUGINS),$(plugin)/src)

wheels: install  ## Build the wheels and run the main job from them, outside the checkout
	$(BIN)/python tests/house/run_wheels.py

bench: install  ## Measure, as ratios in one run
	$(BIN)/python -m pytest -m benchmark tests/benchmarks -q -s -p no:randomly

chaos: install  ## Kill everything for five minutes and compare sets; SECONDS=60 for less, SEED=1 for the same
	$(BIN)/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

fuzz: install  ## Attack what reads the data of others for five minutes; SECONDS=10 for each target, SEED=1 for the same
	$(BIN)/python -m tests.fuzz all $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

ci: lint types test demo wheels  ## What CI runs
	$(MAKE) chaos SECONDS=60

clean:  ## Remove what was made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
