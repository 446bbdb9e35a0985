# Needs python3 3.11 or newer, make and a package index. Everything else is set up here, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest --quiet
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate
BUDGET := 300

# Compiled modules are kept, whatever the environment says: each of the many processes of a lab would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo setup-tests test test-slow simulate fuzz check bench bench-neighbours bench-idle artifact-heavy \
	verify-heavy faults lock clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo     set up everything and show two zones exchanging facts, under a minute'
	@echo 'make test     set up everything and run the tests'
	@echo 'make test-slow  the longer forms of what make test runs: sabotages, ways in which a bring-up fails, half an hour'
	@echo 'make install  the program at .venv/bin/bsfg'
	@echo 'make simulate seeded faults on a virtual clock; SEEDS=100000, or SEED=123 for the full trace of one'
	@echo 'make fuzz     bytes that nobody sends, into all that takes bytes from a peer or from NATS; SEED=1 BUDGET=300'
	@echo 'make check    lint, strict types, import rule, systemd unit'
	@echo 'make bench    BSFG beside native JetStream sources on the same facts; BENCH_OPTIONS="--only lazy_512"'
	@echo 'make bench-neighbours  the same, after installing the neighbours that it can be compared with'
	@echo 'make artifact-heavy  a 5 GB artifact between two zones, memory and lag meanwhile; SIZE_MIB=5000 MIB_PER_SECOND=0'
	@echo 'make verify-heavy  bsfg verify over a million facts, five damaged, and their repair; FACTS=1000000'
	@echo 'make bench-idle  what 100 peers of 5 level links cost while nothing happens; IDLE_OPTIONS="--seconds 60"'
	@echo 'make faults   real zones through kills, pauses, partitions and power cuts; SEED=1 BUDGET=300 FACTS=500000'
	@echo 'make lock     bring the locks in line with pyproject.toml; LOCK_OPTIONS=--upgrade takes newer versions'
	@echo 'make clean    remove what the other targets made'

install: $(VENV)/.runtime-installed

demo: install
	$(BIN)/bsfg demo

test: $(VENV)/.development-installed setup-tests
	$(BIN)/python -u -m tests.gate

# What takes too long for each change, and is a longer form of what `make test` runs.
test-slow: $(VENV)/.development-installed setup-tests
	$(PYTEST) --numprocesses 2 -m slow tests/acceptance

SEEDS ?= 100000
SIZE_MIB ?= 5000
MIB_PER_SECOND ?= 0

simulate: $(VENV)/.development-installed
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

fuzz: $(VENV)/.fuzz-installed
	$(BIN)/python -u -m tests.fuzz --budget $(BUDGET) $(if $(SEED),--seed $(SEED)) $(FUZZ_OPTIONS)

setup-tests:
	@tools/setup-tests

check: $(VENV)/.development-installed
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	tools/check-unit deploy/systemd/bsfg-controller.service

bench: install
	$(BIN)/python -u -m bench $(BENCH_OPTIONS)

artifact-heavy: install
	$(BIN)/python -u -m bench.artifact_heavy --mib $(SIZE_MIB) --mib-per-second $(MIB_PER_SECOND)

verify-heavy: install
	$(BIN)/python -u -m bench.verify_heavy $(if $(FACTS),--facts $(FACTS))

bench-neighbours: install
	@bench/setup-neighbours
	$(BIN)/python -u -m bench $(BENCH_OPTIONS)

bench-idle: install
	$(BIN)/python -u -m bench.idle $(IDLE_OPTIONS)

faults: $(VENV)/.development-installed setup-tests
	$(BIN)/python -u -m tests.faults --budget $(BUDGET) $(if $(SEED),--seed $(SEED)) $(if $(FACTS),--facts $(FACTS)) \
		$(FAULTS_OPTIONS)

lock: $(VENV)/.development-installed
	$(LOCK) --group build --output-file requirements-build.lock $(LOCK_OPTIONS)
	$(LOCK) pyproject.toml --output-file requirements.lock $(LOCK_OPTIONS)
	$(LOCK) --group fuzz --output-file requirements-fuzz.lock $(LOCK_OPTIONS)
	$(LOCK) pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock $(LOCK_OPTIONS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-results.json

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bsfg needs Python 3.11 or newer, not " \
		+ sys.version.split()[0] + "; name another one: make PYTHON=python3.11 ...")'
	@echo 'Setting up $(VENV), once'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Nothing is built with tools that the locks don't pin, so they come first and building is not isolated.
$(VENV)/.runtime-installed: $(VENV)/.created requirements-build.lock requirements.lock pyproject.toml
	@$(PIP) install --require-hashes --requirement requirements-build.lock
	@$(PIP) install --require-hashes --no-build-isolation --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.development-installed: $(VENV)/.runtime-installed requirements-dev.lock
	@$(PIP) install --require-hashes --no-build-isolation --requirement requirements-dev.lock
	@touch $@

$(VENV)/.fuzz-installed: $(VENV)/.development-installed requirements-fuzz.lock
	@$(PIP) install --require-hashes --requirement requirements-fuzz.lock
	@touch $@
