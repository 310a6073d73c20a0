"""Every figure this project states: ``python -m benchmarks.NAME`` prints one JSON line with its targets beside what was measured."""
