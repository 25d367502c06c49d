# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv; nothing else is touched,
# except that a Debian without the venv module gets the package python3-venv when this runs as root.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: demo test check format bench clean

demo: .venv/installed
	$(BIN)/meter-sim demo

test: .venv/installed-dev
	$(BIN)/pytest

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-dev
	$(BIN)/python -m tests.bench

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install python3 (Debian 12: apt-get install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
		{ test "$$(id -u)" = 0 && command -v apt-get; } >/dev/null || { echo "the venv module is missing: sudo apt-get install python3-venv"; exit 1; }; \
		apt-get update -q && apt-get install -qy python3-venv && $(PYTHON) -m venv .venv; }

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/installed $@
