"""Run the benchmarks: ``python -m benchmarks [--quick]``."""

import sys

from benchmarks.bench_artifacts import main

if __name__ == "__main__":
    sys.exit(main())
