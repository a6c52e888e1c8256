"""Units whose removal provably changes nothing: every path from them is multiplied by zero, or they are zero.

A forward pass finds, for each tensor, the classes at whose positions every element is exactly zero. A unit may go
when at each node that sums over it either the value or the other operand is zero there. Assumes finite values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphopt.analysis.labels import Axis, Coupling
from graphopt.analysis.labels.site import Axes
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.labels.space import Labels
from graphopt.analysis.opnames import ops
from graphopt.ir import Array, Node, constant_value
from graphopt.transforms.criteria import weight_places

_KEEP_ZERO = frozenset(
    ops(
        "Relu LeakyRelu Elu Selu Celu Gelu Tanh HardSwish Erf Sqrt Neg Cast Identity Abs Softsign Sin Tan "
        "Asin Atan Sinh Asinh Floor Ceil Round Sign Mish ThresholdedRelu Dropout PRelu Swish QuickGelu "
        "FastGelu MaxPool AveragePool GlobalAveragePool GlobalMaxPool GlobalLpPool LpPool Resize Upsample "
        "Shrink CastLike Trilu"
    )
)
_MOVE = frozenset(
    ops(
        "Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Expand Tile Pad DepthToSpace "
        "SpaceToDepth Gather GatherElements"
    )
)
_SUM = frozenset(ops("Add Sub Sum Max Min Mean"))
_PRODUCT = frozenset(ops("Conv ConvTranspose Gemm MatMul"))


def removable(coupling: Coupling) -> Bools:
    """For each class: removing it (and what follows from it) leaves all outputs as they are."""
    zeros = _Zeros(coupling).run()
    solution = coupling.solution
    good = ~solution.frozen
    for norm in coupling.record.norms:
        for place in norm.over:
            _deny(good, coupling, norm.labels[place])
    for mean in coupling.record.means:
        for axis in mean.axes:
            _deny(good, coupling, axis)
    for mask in coupling.record.masks:
        classes = solution.classes(mask.labels)
        if classes is None:
            continue
        fine = zeros.of(mask.node, mask.index)
        if mask.fill != "zero" or mask.point is not None:
            fine = np.zeros_like(fine)
        elif mask.node.op in (*_PRODUCT, "Einsum") and len(mask.node.inputs) > 1:
            fine = fine | zeros.of(mask.node, 1 - mask.index)
        good[classes[~fine[classes]]] = False
    for grid in solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            whole = good[grid.merged].all(axis=others)
            good[factor[~whole]] = False
    return good & solution.leaf


def _deny(good: Bools, coupling: Coupling, axis: Axis) -> None:
    classes = coupling.solution.classes(axis)
    if classes is not None:
        good[classes] = False


class _Zeros:
    """Which classes are zero in which tensor."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._record = coupling.record
        self._number = len(coupling.solution.frozen)
        self._none = np.zeros(self._number, bool)
        self._table: dict[object, Bools] = {}

    def run(self) -> _Zeros:
        for tensor, axes, edges in self._coupling.weight_axes():
            value = constant_value(tensor)
            found = self._none if value is None or value.dtype.kind not in "fiu" else self._constant(value, axes)
            for edge in edges:
                self._table[edge] = found
        for node in self._coupling.graph.nodes:
            self._table.update(self._node(node))
        return self

    def of(self, node: Node, index: int) -> Bools:
        """The zero classes of an input."""
        if index >= len(node.inputs):
            return self._none
        found = self._table.get((node, index))
        return found if found is not None else self._table.get(node.inputs[index], self._none)

    def _present(self, axes: Axes) -> Bools:
        found = self._none.copy()
        for axis in axes:
            classes = self._coupling.solution.classes(axis)
            if classes is not None:
                found[classes] = True
        return found

    def _constant(self, value: Array, axes: Axes) -> Bools:
        zero, nonzero = self._none.copy(), self._none.copy()
        for place, axis in enumerate(axes):
            classes = self._coupling.solution.classes(axis)
            if classes is None:
                continue
            others = tuple(k for k in range(value.ndim) if k != place)
            empty = ~np.asarray(value != 0).any(axis=others)
            zero[classes[empty]] = True
            nonzero[classes[~empty]] = True
        return zero & ~nonzero

    def _inputs(self, node: Node) -> list[int]:
        return [i for i, t in enumerate(node.inputs) if not t.is_empty()]

    def _axes(self, node: Node, index: int) -> Axes:
        return self._record.edge_axes.get((node, index)) or self._record.axes.get(node.inputs[index], ())

    def _node(self, node: Node) -> dict[object, Bools]:
        rule = _RULES.get(node.op) if node.domain in ("", None, "com.microsoft") else None
        if rule is None:
            return {}
        return {t: rule(self, node) for t in node.outputs if not t.is_empty()}

    def first(self, node: Node) -> Bools:
        """Zero stays zero."""
        return self.of(node, 0)

    def moved(self, node: Node) -> Bools:
        """Zero where every input that has the class is zero there."""
        if node.op == "Pad" and (
            node.attrs.get("mode", "constant") not in ("constant", b"constant") or len(node.inputs) > 2
        ):
            return self._none
        if node.op == "Gather":
            return self.of(node, 0)
        out = self._present(self._record.axes.get(node.outputs[0], ()))
        for other in node.outputs[1:]:
            out = out | self._present(self._record.axes.get(other, ()))
        for index in self._inputs(node):
            out = out & (self.of(node, index) | ~self._present(self._axes(node, index)))
        return out

    def summed(self, node: Node) -> Bools:
        """Zero where all operands are."""
        out = self._present(self._record.axes.get(node.outputs[0], ()))
        for index in self._inputs(node):
            out = out & self.of(node, index)
        return out

    def multiplied(self, node: Node) -> Bools:
        """Zero where any operand is."""
        out = self._none.copy()
        for index in self._inputs(node):
            out = out | self.of(node, index)
        return out

    def divided(self, node: Node) -> Bools:
        """Zero where the numerator is."""
        return self.of(node, 0)

    def product(self, node: Node) -> Bools:
        """An output position is zero when its weights (where the input is not zero) and its bias are."""
        out = self._present(self._record.axes.get(node.outputs[0], ()))
        weight = constant_value(node.inputs[1])
        found = (self.of(node, 1) | self.of(node, 0)) & out
        if weight is not None:
            found = found | self._dead_rows(node, weight)
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            bias = self.of(node, 2)
            found = found & bias
        return found & out

    def _dead_rows(self, node: Node, weight: Array) -> Bools:
        """Output classes of which every weight is zero or meets a zero input."""
        found = self._none.copy()
        places = weight_places(node, weight.ndim)
        if places is None or int(node.attrs.get("group", 1)) != 1:
            return found
        produced, contracted = places
        axes = self._axes(node, 1)
        rows: Labels | None = self._coupling.solution.classes(axes[produced])
        columns = self._coupling.solution.classes(axes[contracted])
        if rows is None:
            return found
        used = np.asarray(weight != 0)
        if columns is not None:
            dead = self.of(node, 0)[columns]
            shape = [-1 if k == contracted else 1 for k in range(weight.ndim)]
            used = used & ~dead.reshape(shape)
        others = tuple(k for k in range(weight.ndim) if k != produced)
        alive = used.any(axis=others)
        found[rows[~alive]] = True
        found[rows[alive]] = False
        return found


_RULES: Mapping[str, Callable[[_Zeros, Node], Bools]] = {
    **dict.fromkeys(_KEEP_ZERO, _Zeros.first),
    **dict.fromkeys(_MOVE, _Zeros.moved),
    **dict.fromkeys(_SUM, _Zeros.summed),
    **dict.fromkeys(_PRODUCT, _Zeros.product),
    "Mul": _Zeros.multiplied,
    "And": _Zeros.multiplied,
    "Div": _Zeros.divided,
}
