"""Measurements of the library: each module prints a table, `python -m benchmarks.NAME` from the top folder (README.md)."""
