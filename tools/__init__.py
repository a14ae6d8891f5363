"""Tools for developers that are no benchmarks: `nox` runs them."""
