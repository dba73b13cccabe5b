# What developers type. Everything is installed into .venv, and again whenever setup.cfg or pyproject.toml change.
#
# The first Python that is new enough is taken; another is chosen by PYTHON, another place for it by VENV:
#     make test PYTHON=python3.13 VENV=/tmp/venv

VENV ?= .venv
BIN := $(VENV)/bin

# Prints the version, as in python3.11, if it is one that rproxy runs on.
VERSION_OF := -c 'import sys; sys.version_info >= (3, 11) and print("%d.%d" % sys.version_info[:2])'
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if [ -n "$$($$python $(VERSION_OF) 2>/dev/null)" ]; then echo $$python; break; fi; done)
endif
VERSION := $(or $(shell $(or $(PYTHON),false) $(VERSION_OF) 2>/dev/null),-unsuitable)

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs mutants bench dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## Run a proxy, pool servers and clients on this machine, and see how packets are spread
	$(BIN)/rproxy simulate

# Both mostly wait, for processes and for time, so they run beside each other. What trial says comes at the end if it
# isn't well; else pytest's summary does.
test: lint ## Check everything: style, types, and the tests, under trial and under pytest with coverage
	@mkdir -p build
	$(BIN)/python -m twisted.trial --reporter=text tests >build/trial.log 2>&1 & trial=$$!; \
	$(BIN)/python -m pytest --cov; status=$$?; \
	wait $$trial || { cat build/trial.log; exit 1; }; \
	exit $$status

lint: $(VENV)/installed-dev ## Check style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Anew each time (-E), as Sphinx can't tell when the code changed that pages are made from. The tests build it as well.
docs: $(VENV)/installed-dev ## Build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -E -W --keep-going -n docs build/docs

# What is mutated, and options, are given by MUTANTS: make mutants MUTANTS='framing packets --again'
mutants: $(VENV)/installed-dev ## Change framing, packets, health, routing, upstream, registry, and see tests fail: an hour
	$(BIN)/python -m tests.mutation $(MUTANTS)

# The command's options are given by BENCH: make bench BENCH='--quick --only shapes'
bench: $(VENV)/installed ## Measure what a message costs, beside HAProxy and NATS where they are installed
	$(BIN)/python bench/run.py $(BENCH)

# The wheel is built from the source archive, so whatever that lacks is missed here.
dist: $(VENV)/installed-dev ## Build the source archive and the wheel into dist/, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

clean: ## Remove what was made here, .venv included
	rm -rf $(VENV) build dist *.egg-info _trial_temp* twisted/plugins/dropin.cache __pycache__
	rm -rf .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache bench/results tests.test_*
	find rproxy tests twisted examples bench docs -name __pycache__ -prune -exec rm -rf {} +

define install
	@if [ $(VERSION) = -unsuitable ]; then \
		echo 'rproxy needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is older or missing,none was found):' \
			'name one by make PYTHON=/path/to/python' >&2; exit 1; fi
	@$(BIN)/python$(VERSION) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '$(1)'
	@touch $@
endef

$(VENV)/installed: setup.cfg pyproject.toml $(BIN)/python$(VERSION)
	$(call install,.)

$(VENV)/installed-dev: setup.cfg pyproject.toml $(BIN)/python$(VERSION)
	$(call install,.[dev])
	@touch $(VENV)/installed

# Every .venv has a link of this name. Where it isn't there or leads nowhere (no .venv, or one of another Python, or its
# Python is gone), this rule makes nothing and so has everything installed anew.
$(BIN)/python$(VERSION): ;
