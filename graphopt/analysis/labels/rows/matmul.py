"""Matrix products. The contracted axes of both operands lose the same positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis, one


def matmul(site: Site) -> None:
    """A[..., M, K] B[..., K, N]; batch axes broadcast; 1-D operands lose their added axis."""
    product(site, 0, 1, list(site.axes(0)), list(site.axes(1)), False, False)


def product(
    site: Site,
    a: int,
    b: int,
    left: list[Axis],
    right: list[Axis],
    trans_a: bool,
    trans_b: bool,
    point: int | None = None,
) -> None:
    """The product of inputs ``a`` and ``b``, transposed as said; input ``point`` is the zero point of ``a``."""
    vector_a, vector_b = len(left) == 1, len(right) == 1
    left = [one(), *left] if vector_a else left
    right = [*right, one()] if vector_b else right
    m, k = (left[-1], left[-2]) if trans_a else (left[-2], left[-1])
    k2, n = (right[-1], right[-2]) if trans_b else (right[-2], right[-1])
    site.equal(k, k2)
    site.mask(a, -1 if vector_a or not trans_a else -2, point=point)
    batch = _batch(site, left[:-2], right[:-2])
    site.emit([*batch, *([] if vector_a else [m]), *([] if vector_b else [n])])
    site.cost(1.0, [*batch, m, k, n])


def _batch(site: Site, left: Sequence[Axis], right: Sequence[Axis]) -> list[Axis]:
    rank = max(len(left), len(right))
    axes: list[Axis] = []
    for place in range(-rank, 0):
        found: Axis | None = None
        for side in (left, right):
            if len(side) >= -place and len(side[place]) != 1:
                found = site.join(found, side[place])
        axes.append(one() if found is None else found)
    return axes


def gemm(site: Site) -> None:
    """alpha * A' * B' + beta * C, C broadcast to [M, N]."""
    product(
        site, 0, 1, list(site.axes(0)), list(site.axes(1)), bool(site.attr("transA", 0)), bool(site.attr("transB", 0))
    )
    if site.has(2):
        out = site.record.axes[site.node.outputs[0]]
        for mine, other in zip(reversed(out), reversed(site.axes(2)), strict=False):
            if len(other) > 1:
                site.equal(mine, other)


def fused_matmul(site: Site) -> None:
    """com.microsoft FusedMatMul: transA, transB on the last two axes."""
    if site.attr("transBatchA", 0) or site.attr("transBatchB", 0):
        site.freeze_all("(transBatch)")
        return
    product(
        site, 0, 1, list(site.axes(0)), list(site.axes(1)), bool(site.attr("transA", 0)), bool(site.attr("transB", 0))
    )


def gemm_fast_gelu(site: Site) -> None:
    """com.microsoft GemmFastGelu: X * W, then a bias of the last axis."""
    product(site, 0, 1, list(site.axes(0)), list(site.axes(1)), False, False)
    if site.has(2):
        site.equal(site.axes(2)[-1], site.record.axes[site.node.outputs[0]][-1])


def einsum(site: Site) -> None:
    """Letters: the same letter is the same axis. Diagonals freeze."""
    text = str(site.attr("equation")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if any(len(set(t.replace("...", ""))) != len(t.replace("...", "")) for t in terms):
        site.freeze_all("(diagonal)")
        return
    if not arrow:
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    letters: dict[str, Axis] = {}
    spelled = []
    for index, term in enumerate(terms):
        axes = site.axes(index)
        names = _letters(term, len(axes))
        spelled.append(names)
        for name, axis in zip(names, axes, strict=True):
            if len(axis) > 1 or name not in letters:
                previous = letters.get(name)
                letters[name] = axis if previous is None or len(previous) == 1 else site.join(previous, axis)
    wanted = _letters(right, len(site.out()))
    for name in {n for names in spelled for n in names} - set(wanted):
        index = next(i for i, names in enumerate(spelled) if name in names)
        site.mask(index, spelled[index].index(name))
    site.emit([letters.get(n, one()) for n in wanted])
    site.cost(1.0, list(letters.values()))


def _letters(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    middle = [f"...{k}" for k in range(rank - len(before) - len(after))][::-1] if dots else []
    return [*before, *middle, *after]


def matmul_nbits(site: Site) -> None:
    """com.microsoft MatMulNBits: A[..., K], B[N, blocks, bytes], scales[N * blocks], zero points, group index, bias[N].

    Columns are free; inputs go in whole blocks. Zero points of several blocks share bytes, so with them inputs stay.
    """
    x, w = site.axes(0), site.axes(1)
    size, blocks = int(site.attr("block_size")), len(w[1])
    inner: Axis = site.stuck(len(x[-1]), "(packed blocks)")
    block = w[1]
    if len(x[-1]) == blocks * size and not site.has(3) and not site.has(4):
        inner = site.merge([block, site.stuck(size, "(block)")]) if blocks > 1 else inner
    else:
        site.freeze(block, "(packed blocks)")
    site.equal(x[-1], inner)
    site.mask(0, len(x) - 1)
    site.freeze(w[2], "(packed blocks)")
    for index in (2, 3):
        if site.has(index):
            table = site.axes(index)
            rest = [site.stuck(len(a), "(packed blocks)") for a in table[1:]]
            if index == 2 and len(table) > 1:
                rest = [block]
            per_row = len(table[0]) // len(w[0])
            rows = site.merge([w[0], block if index == 2 else site.stuck(per_row)]) if len(table) == 1 else w[0]
            for mine, other in zip(table, [rows, *rest], strict=True):
                site.equal(mine, other)
    site.freeze_input(4, "(packed blocks)")
    if site.has(5):
        site.equal(site.axes(5)[0], w[0])
    site.fix_attr("N", lambda kept: kept.count(w[0]) if kept.changed(w[0]) else None)
    site.fix_attr("K", lambda kept: kept.count(x[-1]) if kept.changed(x[-1]) else None)
    site.emit([*x[:-1], w[0]])
    site.cost(float(prod(site.shape(0)[:-1])), (x[-1], w[0]))


ROWS: Mapping[str, Rule] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    "com.microsoft:FusedMatMul": fused_matmul,
    "com.microsoft:TransposeMatMul": fused_matmul,
    "com.microsoft:FusedMatMulActivation": fused_matmul,
    "com.microsoft:GemmFastGelu": gemm_fast_gelu,
    "com.microsoft:FusedGemm": gemm,
    "com.microsoft:MatMulNBits": matmul_nbits,
}
