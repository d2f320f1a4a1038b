# make run    sets up .venv and runs the main job: python -m bench run grid.yaml
# make test   sets up .venv and runs the tests
# make smoke  the same as run, on a grid that takes under a minute
# make lint   ruff and mypy
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: run smoke test lint setup clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp per set of requirements: set-up is done once and again when a list changes.
$(VENV)/.ready: requirements.txt requirements-nodeps.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) --upgrade "pip>=24"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-nodeps.txt
	@# setuptools warns of every editable installation
	PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-test: requirements-test.txt $(VENV)/.ready
	$(PIP) -r requirements-test.txt
	@touch $@

setup: $(VENV)/.ready

run: $(VENV)/.ready
	$(PY) -m bench run grid.yaml

smoke: $(VENV)/.ready
	$(PY) -m bench run grid-smoke.yaml

test: $(VENV)/.ready-test
	@# a worker per core, one thread each: threads of several workers wait for each other
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

lint: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
