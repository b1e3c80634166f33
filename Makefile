# make demo: a virtual environment, the package with its pins, and the quickstart.
# make test: the same with the test extra, the linters and pytest.
# make benchmark: the same with the benchmark extra, and the suite that writes docs/performance.* (under 20 minutes).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test benchmark lint clean
demo: $(VENV)/demo.stamp
	$(BIN)/python examples/quickstart.py

test: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest

benchmark: $(VENV)/benchmark.stamp
	$(BIN)/python benchmarks/suite.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) output

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot,progress]'
	touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/benchmark.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmark]'
	touch $@
