"""One script per claim of speed: `python -m benchmarks NAME`, or `all`. Both sides in one run."""
