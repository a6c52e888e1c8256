"""Which parts of a lossy change have to be taken back so that what is left stays under an allowed noise."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf, isnan

_TRIALS = 64


def noisy_parts(count: int, noise: Callable[[Sequence[int]], float], allowed: float, trials: int = _TRIALS) -> set[int]:
    """Numbers of the parts, of ``count``, to take back.

    Noises of parts are taken to add up. The noisiest group is split in halves, a single part taken back, until the
    groups left are expected to stay within ``allowed``; then that is measured, and if need be it goes on.

    Args:
        noise: of the change with only the given parts (sorted, at least one), as a share of the signal.
        trials: calls of ``noise`` after which groups are taken back whole.
    """

    def loudness(parts: Sequence[int]) -> float:
        found = noise(parts)
        return inf if isnan(found) else found

    everything = tuple(range(count))
    groups = [(-loudness(everything), everything)] if count else []
    used, share = 1, allowed
    kept = {i for _, group in groups for i in group}
    while groups and -groups[0][0] > 0:
        while groups and sum(-loud for loud, _ in groups) > share:
            _, group = heapq.heappop(groups)
            if len(group) == 1 or used >= trials:
                kept.difference_update(group)
                continue
            middle = len(group) // 2
            for half in (group[:middle], group[middle:]):
                heapq.heappush(groups, (-loudness(half), half))
            used += 2
        if not kept or noise(sorted(kept)) <= allowed:
            break
        used, share = used + 1, share / 2
    return set(everything) - kept
