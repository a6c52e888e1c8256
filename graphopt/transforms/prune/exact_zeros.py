"""Where every element of a tensor is exactly zero, class by class, found in one pass over the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.analysis.labels.site import Axes
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.labels.space import Labels
from graphopt.analysis.opnames import ops
from graphopt.ir import Array, Node, constant_value
from graphopt.transforms.prune.criteria import weight_places

_KEEP_ZERO = frozenset(
    ops(
        "Relu LeakyRelu Elu Selu Celu Gelu Tanh HardSwish Erf Sqrt Neg Cast Identity Abs Softsign Sin Tan "
        "Asin Atan Sinh Asinh Floor Ceil Round Sign Mish ThresholdedRelu Dropout PRelu Swish QuickGelu "
        "FastGelu MaxPool AveragePool GlobalAveragePool GlobalMaxPool GlobalLpPool LpPool Resize Upsample "
        "Shrink CastLike Trilu"
    )
)
MOVE = frozenset(
    ops(
        "Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Expand Tile Pad DepthToSpace "
        "SpaceToDepth Gather GatherElements"
    )
)
_SUM = frozenset(ops("Add Sub Sum Max Min Mean"))
PRODUCT = frozenset(ops("Conv ConvTranspose Gemm MatMul"))


class Zeros:
    """Which classes are zero in which tensor."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._record = coupling.record
        self._number = len(coupling.solution.frozen)
        self._none = np.zeros(self._number, bool)
        self._table: dict[object, Bools] = {}

    def run(self) -> Zeros:
        """Go over the graph; answers itself."""
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

    def present(self, axes: Axes) -> Bools:
        """The classes that lie on these axes."""
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

    def present_at(self, node: Node, index: int) -> Bools:
        """The classes that lie on the axes of an input."""
        return self.present(self.axes_at(node, index))

    def axes_at(self, node: Node, index: int) -> Axes:
        """The axes of an input, none when it has no labels."""
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
            node.attrs.get("mode", "constant") not in ("constant", b"constant")
            or len(node.inputs) > 2
            or node.attrs.get("value", 0)
        ):
            return self._none
        if node.op == "Gather":
            return self.of(node, 0)
        out = self.present(self._record.axes.get(node.outputs[0], ()))
        for other in node.outputs[1:]:
            out = out | self.present(self._record.axes.get(other, ()))
        for index in self._inputs(node):
            out = out & (self.of(node, index) | ~self.present(self.axes_at(node, index)))
        return out

    def summed(self, node: Node) -> Bools:
        """Zero where all operands are."""
        out = self.present(self._record.axes.get(node.outputs[0], ()))
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
        out = self.present(self._record.axes.get(node.outputs[0], ()))
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
        axes = self.axes_at(node, 1)
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


_RULES: Mapping[str, Callable[[Zeros, Node], Bools]] = {
    **dict.fromkeys(_KEEP_ZERO, Zeros.first),
    **dict.fromkeys(MOVE, Zeros.moved),
    **dict.fromkeys(_SUM, Zeros.summed),
    **dict.fromkeys(PRODUCT, Zeros.product),
    "Mul": Zeros.multiplied,
    "And": Zeros.multiplied,
    "Div": Zeros.divided,
}
