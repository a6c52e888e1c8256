"""Which numbers the symbolic dims of a graph's inputs get while it is interpreted."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.graph import Graph
from graphopt.ir import Variable, constant_value

_LARGE_PRIMES = (239, 251, 257, 263, 269, 271, 277, 281, 283, 293)
_CLIPS = 48
_MULTIPLES = (224, 256, 288, 320, 352, 384, 416, 448, 480, 512)


def dim_choices(graph: Graph, small: tuple[int, ...], other: bool) -> Iterator[dict[str, int]]:
    """Numbers for some of the dims, likeliest first; the others are to get primes of ``small`` in order of appearance.

    First nothing is asked; then larger primes, and multiples of 32, for all axes but the first of each input (images
    that are halved five times, windows that must divide the extent). Then the same with one number for an axis of all
    inputs (exporters name every dim on its own), with first axes of 1 (a symbolic batch in a graph that only works for
    one sample), and of 48 (frames that are cut into clips). ``other`` takes a second set of larger numbers.
    """
    fixed = _channel_dims(graph)
    leading = [name for name, axis in _symbols(graph) if axis == 0]
    ways: list[dict[str, int]] = [{}, *(dict.fromkeys(leading, n) for n in (1, 2 * _CLIPS if other else _CLIPS))]
    aligned = _aligned_dims(graph, small)
    if len(set(aligned.values())) < len(aligned):
        ways.insert(1, aligned)
    for way in ways:
        yield way | fixed
        for table in (_LARGE_PRIMES, _MULTIPLES):
            numbers = table[1:] if other else table
            later = _later_dims(graph, numbers)
            if way is aligned:
                later = {name: numbers[small.index(way[name]) % len(numbers)] for name in later}
            yield way | later | fixed


def _symbols(graph: Graph) -> Iterator[tuple[str, int]]:
    """Every symbolic dim of the inputs with its axis; one without a name is called after its input and axis."""
    for tensor in graph.inputs:
        for axis, extent in enumerate((tensor.shape or ()) if isinstance(tensor, Variable) else ()):
            if not isinstance(extent, int):
                yield extent or f"{tensor.name}:{axis}", axis


def _aligned_dims(graph: Graph, numbers: tuple[int, ...]) -> dict[str, int]:
    """One number for all symbolic dims at the same axis."""
    found: dict[str, int] = {}
    for name, axis in _symbols(graph):
        found.setdefault(name, numbers[axis % len(numbers)])
    return found


def _channel_dims(graph: Graph) -> dict[str, int]:
    """Symbolic dims that are the channels of a convolution: its weight knows how many there must be."""
    found: dict[str, int] = {}
    for tensor in graph.inputs:
        shape = tensor.shape if isinstance(tensor, Variable) else None
        if shape is None or len(shape) < 3 or isinstance(shape[1], int):
            continue
        for node in tensor.outputs:
            weight = constant_value(node.inputs[1]) if node.is_op("Conv") else None
            if weight is not None:
                found[shape[1] or f"{tensor.name}:1"] = weight.shape[1] * int(node.attrs.get("group", 1))
    return found


def _later_dims(graph: Graph, numbers: tuple[int, ...]) -> dict[str, int]:
    """A number for every symbolic dim that is nobody's first axis."""
    leading = {t.shape[0] for t in graph.inputs if isinstance(t, Variable) and t.shape}
    names: dict[str, None] = {}
    for tensor in graph.inputs:
        for axis, extent in enumerate((tensor.shape or ()) if isinstance(tensor, Variable) else ()):
            if axis and not isinstance(extent, int) and extent not in leading - {None}:
                names[extent or f"{tensor.name}:{axis}"] = None
    return dict(zip(names, numbers, strict=False))
