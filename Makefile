# Every target works alone on a fresh Debian or Ubuntu machine with Python 3.11 or newer: it makes .venv first.
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
BENCHMARKS := identity pipeline health footprint transport activity swap data_path

.PHONY: demo test check lint ready bench conformance guards crash soak clean help

help:
	@echo "make demo    three devices, three releases, one of which heals itself"
	@echo "make test    all tests, with coverage"
	@echo "make check   format, lint, types, import contracts, tests"
	@echo "make bench   benchmarks (half an hour; BENCHMARKS=\"swap pipeline\" names some)"
	@echo "make conformance   our TUF client against what the public conformance suite asks"
	@echo "make guards  every attack once with its guard taken out: its test must fail"
	@echo "make soak    1,000 updates and 200 bad releases in a row under load (a quarter of an hour; SOAK=\"--swaps 50 --bad 10\")"
	@echo "make crash   the agent killed at every moment of every row of its tables"

demo: .venv/publisher.installed
	$(BIN)/publisher demo

test: .venv/dev.installed
	@sh .ci/mosquitto
	@sh .ci/test

check:
	@$(MAKE) --no-print-directory -j2 lint ready
	@$(MAKE) --no-print-directory test

# What the tests need, made while the other core lints: also the compiled tests, else every worker compiles them all.
ready: .venv/dev.installed
	@sh .ci/mosquitto
	@sh .ci/interpreters >/dev/null
	@$(PYTEST) -q --collect-only >/dev/null 2>&1 || true

lint: .venv/dev.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev.installed
	@sh .ci/mosquitto
	@failed=; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

.venv/%.installed: pyproject.toml .ci/venv
	sh .ci/venv $*
	@touch $@

# The public suite is no Python package: clone theupdateframework/tuf-conformance and name it to run that too.
conformance: .venv/dev.installed
	$(PYTEST) -q tests/conformance
	@if [ -n "$(TUF_CONFORMANCE)" ]; then \
		PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) "$(TUF_CONFORMANCE)/tuf_conformance" --rootdir "$(TUF_CONFORMANCE)" \
			-c "$(TUF_CONFORMANCE)/pyproject.toml" --entrypoint "$(CURDIR)/tests/conformance/client"; \
	else echo "TUF_CONFORMANCE is not set: the public suite itself was not run"; fi

soak: .venv/dev.installed
	@sh .ci/mosquitto
	$(BIN)/python -m tests.soak.soak $(SOAK)

crash: .venv/dev.installed
	FIELDCAST_CRASH=all $(PYTEST) -q -n auto tests/crash

guards: .venv/dev.installed
	$(PYTEST) -q tests/attacks

clean:
	rm -rf .venv build dist .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
