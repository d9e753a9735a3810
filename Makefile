# make run    execute the five notebooks from the offline kit into build/
# make test   unit tests, notebooks against their stored outputs, ruff, mypy, import contract
# make test-solved  the notebooks with every task solved: every check must pass
# make test-coverage  unit tests again: 90 % of the package must be run by them
# make test-browser  the explorer in Chromium; insists on one
# make site     the course as static pages, in build/site
# make live     a whole ViT in the browser: build/live and, as one file, build/vit-live.html
# make test-site  builds them and opens them in Chromium
# make test-oldest   unit tests and notebooks with the oldest libraries, in an environment of its own
# make test-extras   OpenVINO's variants, and rollout against a published package
# make test-versions   the same with the oldest, pinned and newest, in every Python that is here
# make lab    open JupyterLab
# make refresh  execute the notebooks and store their outputs (look at them before a commit)
# make kit    build the data twins of the offline kit again
PYTHON ?= python3
VENV := .venv/bin

.PHONY: run test test-solved test-coverage test-browser site live test-site test-oldest test-versions test-extras lab refresh kit clean
.DELETE_ON_ERROR:

# The stamp is newer than what it was installed from: then there is nothing to install.
.venv/installed: requirements.txt pyproject.toml
	test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-site: requirements-site.txt .venv/installed
	$(VENV)/python -m pip install --disable-pip-version-check -r requirements-site.txt
	touch $@

run: .venv/installed
	$(VENV)/python -m course run

test: .venv/installed
	$(VENV)/python -m course test

test-solved: .venv/installed
	$(VENV)/python -m course test solved

test-coverage: .venv/installed
	$(VENV)/python -m course test coverage

test-browser: .venv/installed
	$(VENV)/python -m course test browser

site: .venv/installed-site
	$(VENV)/python -m course site

live: .venv/installed
	$(VENV)/python -m course live

test-site: .venv/installed-site
	$(VENV)/python -m course test site

test-oldest: .venv/installed
	$(VENV)/python -m nox -s "oldest-$$($(VENV)/python noxfile.py)"

test-versions: .venv/installed
	$(VENV)/python -m nox --no-error-on-missing-interpreters

test-extras: .venv/installed
	$(VENV)/python -m nox -s extras

lab: .venv/installed
	$(VENV)/python -m jupyterlab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

refresh: .venv/installed
	$(VENV)/python -m course refresh

kit: .venv/installed
	$(VENV)/python -m pip install --disable-pip-version-check -e ".[kit]"
	$(VENV)/python -m kit_builder.build

clean:
	rm -rf build .venv .cache
