"""What a user should look at after a run: printed on stderr, on top of the report, and errors with ``--strict``."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.results import PassResult, Remark, RunResult, counted

_MUCH = 1.5
"""A file that grew by more than this is told."""
_LITTLE = 65_536
"""Bytes that a file may always grow."""
_FOLDING = ("cleanup", "fold_constants")


def warnings_of(result: RunResult, data: Sequence[str], unscored: bool = False) -> tuple[str, ...]:
    """The warnings of a finished run, those about its ``data`` first.

    ``unscored``: the scoring data has labels, and no metric of the user's takes their place.
    """
    found = list(data)
    if not result.pipeline:
        found.append("no passes were given (--passes or --recipe): the result is a copy of the input")
    found += [f"{p.name} left every layer in float; its remarks say why" for p in result.passes if _idle(p)]
    found += _remarked(result.remarks)
    found += _outputs(result, unscored)
    found += _grown(result)
    if result.timing is not None and result.timing.timings[-1].verdict == "slower":
        last = result.timing.timings[-1]
        ratio = "" if last.speedup is None else f" ({last.speedup.value:.2f}x)"
        found.append(f"the result is slower than the input on provider {result.provider}{ratio}")
    return tuple(found)


def _idle(result: PassResult) -> bool:
    """Whether a pass that quantizes put nothing on integers."""
    counted_as = ("integer kernels", "recurrent layers on integers")
    return result.name in ("quantize", "insert_qdq") and not any(result.statistics.get(n, 0) > 0 for n in counted_as)


def _remarked(remarks: Sequence[Remark]) -> list[str]:
    """The warnings among the remarks; those of one pass that say the same are one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        if remark.kind == "warning":
            groups.setdefault((remark.source, remark.message), []).append(remark.node)
    lines = []
    for (source, message), nodes in groups.items():
        more = f" and {counted(len(nodes) - 1, 'more node')}" if len(nodes) > 1 else ""
        lines.append(f"{source}: {nodes[0] + more + ': ' if nodes[0] else ''}{message}")
    return lines


def _outputs(result: RunResult, unscored: bool) -> list[str]:
    if result.accuracy is not None:
        if result.accuracy.drop > 0.02:
            return [f"{result.accuracy.metric} fell by {result.accuracy.drop:.4f}; remove less, or keep more in float"]
        return []
    found = ["the labels fit no output, so there is no accuracy; --eval can score them"] if unscored else []
    outputs = () if result.comparison is None else result.comparison.outputs
    poor = [o.name for o in outputs if o.equal_share is None and o.sqnr_db < 10]
    if poor:
        found.append(f"outputs differ strongly from the original's (SQNR under 10 dB): {', '.join(poor)}")
    return found


def _grown(result: RunResult) -> list[str]:
    if result.output is None:
        return []
    before, after = result.input.bytes, result.output.bytes
    if after <= before * _MUCH or after - before <= _LITTLE:
        return []
    most = max(result.passes, key=lambda p: p.after.weight_bytes - p.before.weight_bytes, default=None)
    why = "" if most is None else f", most of it by {most.name}"
    if most is not None and most.name in _FOLDING:
        why += f", which computed constants in advance ({most.name}:growth_kb=0 leaves them as they are)"
    return [f"the file grew {after / before:.3g} times, from {before:,} to {after:,} bytes{why}"]
