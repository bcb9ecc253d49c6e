# Everything that can be done here; CI runs `make lint` and `make test`.
# Needs Python 3.11 or newer and make; the rest is installed into .venv and deploy/local.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.installed
LOCKS := dev all producer worker score

.PHONY: help setup demo up test chaos bench fuzz lint format lock audit sbom clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Make the virtual environment and install Azurite
	@$(BIN)/python -m deploy.local.install

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once) ..."
	@$(PIP) install --quiet --require-hashes --requirement requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@# encrypted-inference unpacks its native library when it is first imported
	@$(BIN)/python -W ignore -c 'import encrypted.inference.eiclient, encrypted.inference.eiserver'
	@touch $@

demo: setup  ## Score images end to end on this machine, and report
	@$(BIN)/blindscore demo $(ARGS)

up: setup  ## Start storage, endpoint and worker here until Ctrl-C
	@$(BIN)/blindscore up $(ARGS)

test: setup  ## Pass all tests (three at a time on two cores: they wait for programs as often as they compute)
	@$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: setup  ## Kill everything, again and again, and soak; figures in build/chaos.json
	@$(BIN)/python -m tests.chaos.run $(ARGS)

bench: $(STAMP)  ## Measure every scheme and the pipeline; figures in build/bench.json
	@$(BIN)/python -m deploy.local.install
	@$(BIN)/python -m tests.bench $(ARGS)

FUZZ_S ?= 60
FUZZERS := seal_header container message

fuzz: $(STAMP)  ## Fuzz what parses bytes from outside, FUZZ_S seconds each
	@$(PIP) install --quiet --no-build-isolation --editable '.[fuzz]'
	@mkdir -p build/fuzz
	@for name in $(FUZZERS); do \
	  $(BIN)/python -m tests.fuzz.fuzz_$$name -max_total_time=$(FUZZ_S) -max_len=512 -timeout=10 \
	    -artifact_prefix=build/fuzz/$$name- || exit 1; \
	done
	@FUZZ_S=$(FUZZ_S) $(BIN)/pytest tests/integration/test_openapi.py

lint: $(STAMP)  ## Formatting, style, types, import contracts, shell scripts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/shellcheck .ci/run tests/integration/readonly.sh

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(STAMP)  ## Pin all dependencies with hashes; ARGS=--upgrade takes the newest
	@for extra in $(LOCKS); do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	    --extra $$extra $(ARGS) pyproject.toml --output-file requirements/$$extra.txt || exit 1; \
	done

audit: $(STAMP)  ## Look the pinned dependencies up among the known vulnerabilities
	@$(BIN)/python -m deploy.audit requirements/dev.txt

sbom: $(STAMP)  ## List what a release consists of (CycloneDX), in build/sbom.json
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/release
	@$(BIN)/uv pip install --quiet --python build/release/bin/python --require-hashes \
	  --requirement requirements/all.txt
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file build/sbom.json build/release/bin/python
	@echo build/sbom.json

clean:  ## Remove everything that was installed or built here
	rm -rf .venv .interop-venv build deploy/local/node_modules
