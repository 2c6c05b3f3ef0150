# Mooring's commands. `make help` lists them; README.md says which two a newcomer needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := $(CURDIR)/.venv
PY     := $(VENV)/bin/python
SERVICE := roles/server/files/service
export PATH := $(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/tests

.PHONY: help venv lock demo demo-server-stop demo-stop test lint unit e2e security mutants faults faults-table soak molecule bench bench-table bench-policies compiled fuzz testbed-up testbed-down openapi roles clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.ready ## Make the development environment in .venv from requirements/dev.lock
	@$(PY) tests/support/wheels.py

$(VENV)/.ready: requirements/dev.lock requirements/bootstrap.lock $(SERVICE)/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Mooring needs Python 3.11 or newer, this is %d.%d: set PYTHON=" % v[:2])'
	@echo "[venv] installing requirements/dev.lock into .venv (about a minute, once)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements/dev.lock
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable $(SERVICE)
	@touch $@

lock: ## Compile requirements/dev.lock anew from dev.in and the service's pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras \
	  requirements/dev.in $(SERVICE)/pyproject.toml --output-file requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  requirements/fuzz.in --output-file requirements/fuzz.lock
	grep -E '^uv==' requirements/dev.lock -A 100 | awk 'NR==1 || /^ /{print; next} {exit}' > requirements/bootstrap.lock

demo: venv ## A real cluster, imported by a playbook, and Bob's kubectl through the server
ifeq ($(origin KUBECONFIG),environment)
	@echo "KUBECONFIG of the environment is not used: say 'make demo KUBECONFIG=$(KUBECONFIG)' to import that cluster."
endif
	@$(PY) -m demo up $(if $(filter command line,$(origin KUBECONFIG)),--kubeconfig '$(KUBECONFIG)')

demo-server-stop: venv ## Stop the demo's server, run Bob's kubectl straight to the cluster, start the server again
	@$(PY) -m demo server-stop

demo-stop: venv ## Remove all that the demo started
	@$(PY) -m demo down

test: venv ## Everything that must pass: lint, unit, collection, e2e, attack book, molecule
	@$(PY) tests/run.py all

lint: venv ## ruff, mypy, import-linter, ansible-lint, ansible-test sanity, docs lint, galaxy importer
	@$(PY) tests/run.py lint

unit: venv ## Unit tests
	@$(PY) tests/run.py unit

e2e: venv ## End-to-end tests on a real Kubernetes
	@$(PY) tests/run.py e2e

security: venv ## The attack book, against a real server, agent and API server
	@$(PY) tests/run.py security

mutants: venv ## Switch each guard off in turn; a test must notice: make mutants ONLY=good-once,7 | CHANGED=main
	@$(PY) -m mutants --only '$(ONLY)' --where '$(WHERE)' --changed '$(CHANGED)' $(if $(JOBS),--jobs $(JOBS)) $(if $(AGAIN),--again)

faults: venv ## What breaks, and what users see then: make faults LONG=1 for all of it
	@LONG=$(LONG) $(PY) tests/run.py faults

faults-table: venv ## Write the table of docs/faults.md from the last make faults
	@$(PY) -m faults.table

soak: venv ## Faults at random: make soak SEED=1 MINUTES=20
	@$(PY) -m testbed build api
	@$(PY) -m faults.soak --seed $(or $(SEED),1) --minutes $(or $(MINUTES),20)

molecule: venv ## The molecule scenario on test-bed machines
	@$(PY) tests/run.py molecule

bench: venv ## Beside a Go peer and nginx: make bench QUICK=1 | ONLY=rates,exec | ROUNDS=5 | SOAK=30 | SOURCE=/tree
	@$(PY) -m bench

bench-table: venv ## Write the table in docs/performance.md from the last make bench
	@$(PY) -m bench.table

bench-policies: venv ## Rendering, change to enforced, 5,000 bindings: make bench-policies ONLY=render,change,apply
	@$(PY) -m testbed build api
	@ONLY=$(ONLY) $(PY) -m bench.policies

compiled: venv ## Build the service with mypyc and run the unit tests of what was compiled on it (minutes; needs a C compiler)
	@$(PY) tests/compiled.py

fuzz: .cache/fuzz/.ready ## Fuzz every parser: make fuzz SECONDS=60 ONLY=mux,frames JOBS=2
	@$(PY) -m fuzz --seconds $(or $(SECONDS),60) --only '$(ONLY)' --jobs $(or $(JOBS),1)

.cache/fuzz/.ready: requirements/fuzz.lock $(VENV)/.ready
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --target $(@D) --require-hashes -r requirements/fuzz.lock
	@touch $@

testbed-up: venv ## A real Kubernetes: make testbed-up NODES=2 MACHINES=0
	@$(PY) -m testbed up --nodes $(or $(NODES),0) --machines $(or $(MACHINES),0)

testbed-down: venv ## Remove the test bed
	@$(PY) -m testbed down

openapi: venv ## Write docs/api/openapi.json anew
	@$(PY) -m mooring.api.openapi > docs/api/openapi.json

roles: venv ## Write docs/roles.md anew
	@$(PY) -m mooring.policy.document > docs/roles.md

clean: demo-stop testbed-down ## Remove what the commands made, but not the caches in ~/.cache
	rm -rf build .cache
