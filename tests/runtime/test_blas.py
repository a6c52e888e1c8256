"""Threads of the linear algebra behind numpy."""

import numpy as np
import threadpoolctl

from graphopt.pipeline.context import Settings
from graphopt.runtime.blas import blas_threads


def threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]


def test_limit_holds_inside_the_block_only():
    with blas_threads(1):  # loads scipy's
        pass
    before = threads()
    with blas_threads(1):
        assert set(threads()) == {1}
    assert threads() == before


def test_runs_take_one_thread_unless_told():
    assert Settings().threads == 1
