# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv; nothing else is touched, except that a
# Debian gets, when this runs as root, the package python3-venv if it lacks the venv module, and for the tests the SERVERS it lacks.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Debian packages with the real brokers and databases, the browser and the foreign tools that tests run against, and a program of each to look for.
SERVERS := mosquitto mosquitto-clients mbpoll nats-server chromium fonts-wqy-microhei postgresql
SERVER_PROGRAMS := mosquitto mosquitto_pub mbpoll nats-server chromium initdb

.PHONY: demo test servers check format bench clean

demo: .venv/installed
	$(BIN)/meter-sim demo

test: .venv/installed-dev servers
	$(BIN)/pytest

servers:
	@missing=; for program in $(SERVER_PROGRAMS); do \
		PATH="$$PATH:/usr/sbin:/sbin:$$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)" command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if test -z "$$missing"; then :; \
	elif { test "$$(id -u)" = 0 && command -v apt-get; } >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(SERVERS); \
	else echo "missing:$$missing; the tests that need them are skipped. On Debian: sudo apt-get install $(SERVERS)"; fi

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,demo]'
	@touch .venv/installed $@
