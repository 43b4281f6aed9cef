# The few commands of the project. `make setup` is implied by all others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup run test test-fast quick test-long test-dist check dist docs docs-example bench linux test-linux linux-guests silicon-record test-kvm check-others soak fuzz differences where guests format clean
.DEFAULT_GOAL := setup

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "trapgate needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python has no venv module; install it with: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

run: $(READY)
	$(BIN)/trapgate demo

# What a change must pass.
test: check test-fast

# The fast tier: files of tests beside each other, on as many CPUs as there are, up to four. A process that ends amid a test is a failure
# of that test: another one in its place would leave all waiting for ever.
WORKERS ?= auto
test-fast: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --max-worker-restart 0 --dist loadfile

# Pages and reference in build/docs; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The bytes in docs/example.md, made again.
docs-example: $(READY)
	PYTHONPATH=tests $(BIN)/python -m house.example

# For the loop of edit and try: the rooms that need neither LLVM nor a guest.
quick: $(READY)
	$(BIN)/python -m pytest --quick tests/unit tests/gdb/test_transcripts.py $(addprefix --ignore=tests/unit/,api soft isa stencil)

# The packages as a user gets them: built, installed into an empty environment, run from there.
test-dist: $(READY)
	$(BIN)/python -m pytest -m long tests/house/test_distributions.py

test-long: $(READY)
	$(BIN)/python -m pytest -m long --timeout 3600

linux-guests: $(READY)
	$(BIN)/python -m tools.linux_guest

linux: $(READY)
	$(BIN)/python -m tools.show_linux

test-linux: $(READY)
	$(BIN)/python -m pytest -m linux --timeout 3600

silicon-record: $(READY)
	$(BIN)/python -m tests.silicon.record $(if $(OUTPUT),--output "$(OUTPUT)")

test-kvm: $(READY)
	$(BIN)/python -m tools.test_kvm $(KVM)

check-others: $(READY)
	$(BIN)/python -m tools.check_others $(CHECK)

soak: $(READY)
	$(BIN)/python -m tools.soak $(SOAK)

# Lint, layout, types (of the tests too) and layers: all that runs nothing.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dist: $(READY)
	$(BIN)/python -m build --outdir build/dist

bench: $(READY)
	$(BIN)/python bench/run.py

# Where each instruction runs, by mode: docs/where.md.
where: $(READY)
	$(BIN)/python tools/show_where.py

differences: $(READY)
	$(BIN)/python tools/show_differences.py

guests: $(READY)
	$(BIN)/python tools/build_guests.py

fuzz: $(READY)
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
