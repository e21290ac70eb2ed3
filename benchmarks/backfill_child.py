"""One backfill in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import json
import sys

from benchmarks.backfill import fill

if __name__ == "__main__":
    print(json.dumps(fill(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
