# `make` lists the tasks. PYTHON chooses the interpreter for .venv, ARGS goes to the command that a task runs.
PYTHON ?= python3
ARGS ?=
FAST ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test chaos bench lint format clean

help: ## List the tasks
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

run: $(BIN)/.embedded ## Run the gateway with everything it needs on this machine (ARGS='--port N')
	@exec $(BIN)/parallama quickstart $(ARGS)

test: $(BIN)/.test ## Run the tests (ARGS='-k name')
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

chaos: $(BIN)/.test ## Kill, stop and lie to gateways and their servers, and count (FAST=1: a few minutes)
	FAST=$(FAST) $(BIN)/python -m pytest tests/chaos -n 2 --dist worksteal $(ARGS)

bench: $(BIN)/.embedded ## Measure against a bare aiohttp proxy, into bench/results.md (ARGS='--quick')
	@exec $(BIN)/python -m bench $(ARGS)

lint: $(BIN)/.lint ## Check format, style, types and import direction
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(BIN)/.lint ## Format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean: ## Remove what was built; state directories are not touched
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# one stamp an extra: what is installed with it, editable, in .venv
$(BIN)/.%: pyproject.toml setup.cfg
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing parallama[$*] into .venv" && $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$*]'
	@touch $@
