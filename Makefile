# make demo: a virtual environment, the package with its pins, and the quickstart.
# make test: the same with the test extra, and at once the linters, pytest on all cores, and what measures or kills processes.
# make test-engines: the same with Ray, Dask and Spark, which needs Java, and the launchers' tests on them.
# make docs: the same with the docs extra, the examples, the site in docs/_build/html, and a browser that looks at it.
# make benchmark: the same with the benchmark extra, and the suite that writes docs/performance.* (under 20 minutes).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-parallel test-serial test-engines docs benchmark lint clean
demo: $(VENV)/demo.stamp
	$(BIN)/python examples/quickstart.py

# On all cores, and beside them the linters, and one after the other what measures or kills processes.
test: $(VENV)/test.stamp
	$(MAKE) --jobs=3 lint test-parallel test-serial

test-parallel: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not serial" --numprocesses=auto --dist=worksteal

test-serial: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m serial --quiet

test-engines: $(VENV)/engines.stamp
	$(BIN)/python -m pytest tests/test_launchers.py -m serial --show-capture=no

docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(BIN)/python -m pytest tests/test_site.py

benchmark: $(VENV)/benchmark.stamp
	$(BIN)/python benchmarks/suite.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) output examples/output docs/_build docs/gallery docs/generated docs/sg_execution_times.rst

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot,progress]'
	touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/engines.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,ray,dask,spark]'
	touch $@

$(VENV)/docs.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $@

$(VENV)/benchmark.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmark]'
	touch $@
