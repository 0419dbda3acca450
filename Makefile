# The five words a contributor needs. Each line can also be run by itself, where there is no make.
.PHONY: check test slow browser bench

check: # lint, format and types: seconds
	ruff check .
	ruff format --check .
	mypy

test: # what CI runs: minutes on two cores
	pytest

slow: # the long proofs: twenty kills, every full disk
	pytest -m slow

browser: # the dashboard in Chromium, which is skipped where there is none
	pytest -m browser

bench: # the benchmarks that have a goal; docs/performance.md says how long
	python -m benchmarks.all
