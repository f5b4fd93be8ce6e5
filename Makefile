# Each target sets itself up: one .venv, made again when pyproject.toml changes. On a bare machine it needs python3 and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
SYSTEM := $(VENV)/.installed-system
# A fresh name each time: a finished search is never overwritten.
DEMO ?= demo-$(shell date +%m%d-%H%M%S)

.PHONY: venv demo test system-test faults fuzz parity lint bench golden-folder

venv: $(READY)

demo: $(READY)
	$(BIN)/kinemic search run examples/demo.yaml --set name=$(DEMO)

# Two processes, a file each at a time: a test that waits for Ray or a server leaves its core to another.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What is looked at in a browser; needs an installed Chromium beside what pip brings.
system-test: $(SYSTEM)
	$(BIN)/python -m pytest tests/system

# What make test tries a sample of: random kill -9 of searches, and a driver that dies at every write to its study;
# and what it leaves out: kill -9 of confirmations.
faults: $(READY)
	KINEMIC_FAULTS=all $(BIN)/python -m pytest tests/faults

# What make test tries a sample of: damaged inputs of every kind. INPUTS=20000 tries more.
INPUTS ?= 5000
fuzz: $(READY)
	$(BIN)/python -W ignore -m tests.fuzz --inputs $(INPUTS)

# KINEMIC_GOLDEN=DIR make parity checks any folder of the golden form.
parity: golden-folder $(READY)
	$(BIN)/python -m pytest tests/parity

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

golden-folder:
	@test -d "$${KINEMIC_GOLDEN:-../shared/golden}" || { \
	  echo "parity NOT checked: $${KINEMIC_GOLDEN:-../shared/golden} is not a folder; set KINEMIC_GOLDEN" >&2; exit 2; }

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

$(SYSTEM): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,system]"
	@touch $@
