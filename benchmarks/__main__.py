"""``python -m benchmarks``: the speed table."""

from __future__ import annotations

from benchmarks.speed import main

main()
