"""``cleanup`` on many random models (default 10,000): equal, idempotent, deterministic. A failure is shrunk and shown.

Run from the repository root: ``python benchmarks/clean_random.py [COUNT]``.
"""

from __future__ import annotations

import sys
import time

import onnx
from hypothesis import given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, ".")

from tests.generators import models
from tests.passes.test_random_models import QUIET, check


def main(count: int) -> None:
    """Check ``count`` models, half of them per guarantee."""
    nodes: list[int] = []

    @seed(2)
    @settings(max_examples=count, deadline=None, suppress_health_check=QUIET, database=None)
    @given(models(), st.sampled_from(["exact", "equivalent"]))
    def run(proto: onnx.ModelProto, guarantee: str) -> None:
        nodes.append(len(proto.graph.node))
        check(proto, guarantee)

    start = time.perf_counter()
    run()
    mean = sum(nodes) / len(nodes)
    print(f"{len(nodes)} models, {mean:.1f} nodes on average, no failure, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
