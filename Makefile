# make demo   the full pipeline on synthetic data: about three minutes, installation included
# make test   the tests
# make check  format, lint, types
# make site   the documentation as web pages, in site/; a warning is an error
# All set-up happens here: a virtual environment in .venv, made once.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# On every core, which pip does not; packages' own tests are left out.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib fcnseg || true

.PHONY: demo test check docs site clean

demo: $(VENV)/.installed
	$(BIN)/fcnseg demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPY_NUM_WORKERS=2 $(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/cli.py > docs/cli.md
	$(BIN)/python docs/schemas/train.py > docs/schemas/train.json
	$(BIN)/python docs/man.py > docs/fcnseg.1

site: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e .
	$(COMPILE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	$(COMPILE)
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP) -e '.[docs]'
	$(COMPILE)
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
