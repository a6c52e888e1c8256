"""How many threads the linear algebra behind numpy and scipy takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Limit BLAS to ``count`` threads inside the block.

    More threads than free cores waste most of their time, and the last bits of a product depend on their number.
    Calibration takes in one batch while ONNX Runtime runs the next, so that two cores have work with one thread here.
    Only libraries that are loaded can be limited, and scipy brings one of its own: it is loaded here.
    """
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(count, user_api="blas"):
        yield
