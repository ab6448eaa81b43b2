# `make run` gives a running server, `make test` proves the tree. Everything lands in .venv, nothing outside the folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of pytest: servers and children wait more than they compute. Files go in their order, for the unit tests, which are many
# and quick, to fill the end.
WORKERS ?= $(shell n=$$(( $$(nproc) + 1 )); echo $$(( n < 4 ? n : 4 )))
STAMP := $(VENV)/.ready
FLUX_CLIENT := .flux-client
# The agent gives its own PATH to the jobs, so `python` in examples/jobs.toml is this environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup postgres redis graphviz chromium flux-client run test again check bench openapi docs clean

help:
	@echo "make setup   install everything into $(VENV)"
	@echo "make run     start the server with the examples (ctrl-C stops it)"
	@echo "make test    linters, types and all test suites (ARGS='-k name' goes to pytest)"
	@echo "make check   linters and types only"
	@echo "make bench   measure (ARGS go to bench/run.py)"
	@echo "make openapi write docs/openapi.json anew, from the code"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove $(VENV), $(FLUX_CLIENT), site/ and all caches"

setup: $(STAMP) postgres

# With uv where it is installed (as a command or a module), else with the standard library's venv and pip.
$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then uv="uv"; elif $(PYTHON) -m uv --version >/dev/null 2>&1; then uv="$(PYTHON) -m uv"; else uv=; fi; \
	if [ -n "$$uv" ]; then \
	  [ -x $(BIN)/python ] || $$uv venv --quiet --python '>=3.11' $(VENV); \
	  $$uv pip install --quiet --python $(BIN)/python -e '.[dev,examples,postgres,redis,flow,infer]' -c constraints.txt; \
	else \
	  [ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/pip install --quiet -e '.[dev,examples,postgres,redis,flow,infer]' -c constraints.txt; \
	fi
	@touch $(STAMP)

# The store's tests also run on PostgreSQL where initdb is found; RUNYARD_REQUIRE_POSTGRES=1 makes sure that it is.
postgres:
	@if [ "$${RUNYARD_REQUIRE_POSTGRES:-}" = 1 ] && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; \
	  else \
	    echo "make: RUNYARD_REQUIRE_POSTGRES=1, but PostgreSQL's initdb is missing: install the package postgresql" >&2; exit 1; \
	  fi; \
	fi

# The lists of the K12AI door are tested with a Redis where redis-server is found; RUNYARD_REQUIRE_REDIS=1 makes sure.
redis:
	@if [ "$${RUNYARD_REQUIRE_REDIS:-}" = 1 ] && ! command -v redis-server >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server; \
	  else \
	    echo "make: RUNYARD_REQUIRE_REDIS=1, but redis-server is missing: install the package redis-server" >&2; exit 1; \
	  fi; \
	fi

# The parser of graphs is compared with Graphviz where that is found; RUNYARD_REQUIRE_GRAPHVIZ=1 makes sure that it is.
graphviz:
	@if [ "$${RUNYARD_REQUIRE_GRAPHVIZ:-}" = 1 ] && ! command -v gvpr >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends graphviz; \
	  else \
	    echo "make: RUNYARD_REQUIRE_GRAPHVIZ=1, but gvpr is missing: install the package graphviz" >&2; exit 1; \
	  fi; \
	fi

# The tests of the pages run where Chromium is found; RUNYARD_REQUIRE_CHROMIUM=1 makes sure that it is.
chromium:
	@if [ "$${RUNYARD_REQUIRE_CHROMIUM:-}" = 1 ] && ! command -v chromium >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	  else \
	    echo "make: RUNYARD_REQUIRE_CHROMIUM=1, but chromium is missing: install the package chromium" >&2; exit 1; \
	  fi; \
	fi

# The released client of Flux RESTful, unmodified, in an environment of its own: the Flux door's tests run it.
flux-client: $(FLUX_CLIENT)/.ready

$(FLUX_CLIENT)/.ready:
	@if command -v uv >/dev/null; then uv="uv"; elif $(PYTHON) -m uv --version >/dev/null 2>&1; then uv="$(PYTHON) -m uv"; else uv=; fi; \
	if [ -n "$$uv" ]; then \
	  $$uv venv --quiet --clear --python '>=3.11' $(FLUX_CLIENT) && $$uv pip install --quiet --python $(FLUX_CLIENT)/bin/python flux-restful-client==0.2.1; \
	else \
	  $(PYTHON) -m venv $(FLUX_CLIENT) && $(FLUX_CLIENT)/bin/pip install --quiet flux-restful-client==0.2.1; \
	fi
	@touch $@

run: setup
	@export RUNYARD_DOORS__TANGO__SHARED="$${RUNYARD_DOORS__TANGO__SHARED:-$(CURDIR)/examples/tango/shared}"; \
	exec $(BIN)/runyard serve --config examples/runyard.toml --jobs examples/jobs.toml --jobs examples/flow/jobs.toml --jobs examples/tango/jobs.toml $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: setup check redis graphviz chromium flux-client
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS) || { [ $$? = 1 ] && $(MAKE) --no-print-directory again; }

# Servers, agents, databases and browsers crowd few cores: a handful of tests that failed in the crowd is tried once more,
# alone. What fails again fails, and what passes only now is named, for it wants mending.
again:
	@failed=$$($(BIN)/python -c 'import json; print("\n".join(json.load(open(".pytest_cache/v/cache/lastfailed"))))'); \
	if [ "$$(wc -l <<<"$$failed")" -gt 5 ]; then echo "make: too many tests failed for a second look" >&2; exit 1; fi; \
	echo "make: a second look, at each alone"; \
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none; \
	printf 'make: UNSTEADY, failed in the crowd and passed alone:\n%s\n' "$$failed"

bench: setup
	@$(BIN)/python -c 'import hyperqueue' 2>/dev/null || echo "bench: HyperQueue is not installed (extra bench): that comparison is left out"
	$(BIN)/python -m bench.run $(ARGS)

openapi: setup
	@$(BIN)/python -m runyard.api.openapi > docs/openapi.json

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(FLUX_CLIENT) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
