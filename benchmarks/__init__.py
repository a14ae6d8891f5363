"""Measurements of fhrt on the machine at hand: `python -m benchmarks --help`."""
