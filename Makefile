# Everything that can be done here; CI runs `make lint` and `make test`.
# Needs Python 3.11 or newer and make; the rest is installed into .venv and deploy/local.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.installed

.PHONY: help setup demo up test lint format clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Make the virtual environment and install Azurite
	@$(BIN)/python -m deploy.local.install

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once) ..."
	@$(PIP) install --quiet --editable '.[dev]'
	@# encrypted-inference unpacks its native library when it is first imported
	@$(BIN)/python -W ignore -c 'import encrypted.inference.eiclient, encrypted.inference.eiserver'
	@touch $@

demo: setup  ## Score images end to end on this machine, and report
	@$(BIN)/blindscore demo $(ARGS)

up: setup  ## Start storage, endpoint and worker here until Ctrl-C
	@$(BIN)/blindscore up $(ARGS)

test: setup  ## Pass all tests
	@$(BIN)/pytest $(ARGS)

lint: $(STAMP)  ## Formatting, style, types, import contracts, shell scripts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/shellcheck .ci/run

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## Remove everything that was installed or built here
	rm -rf .venv .interop-venv build deploy/local/node_modules
