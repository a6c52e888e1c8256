"""Units whose value does not depend on the input: what reads them gets it as a bias, and they go.

A forward pass finds, for each tensor, the classes that have one value there: the same for all inputs, at all positions
of the class and along all other axes. The values themselves are read from one run of the unpruned model. A convolution
that pads with zeros sees something else at the border, so what it reads stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.analysis.labels.records import Mask
from graphopt.analysis.labels.site import Axes
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.opnames import ops
from graphopt.graph import Graph
from graphopt.ir import Array, Node, constant_value, is_constant
from graphopt.model import Model
from graphopt.transforms.prune.criteria import weight_places
from graphopt.transforms.prune.exact_zeros import MOVE, Zeros
from graphopt.transforms.prune.keepset import KeepSet

_UNARY = frozenset(
    ops(
        "Relu LeakyRelu Elu Selu Celu Gelu Sigmoid Tanh HardSwish HardSigmoid Clip Erf Sqrt Neg Cast Identity Abs Exp "
        "Log Softplus Softsign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Floor Ceil Round Reciprocal "
        "Sign Mish ThresholdedRelu Dropout Shrink Swish QuickGelu CastLike GlobalAveragePool GlobalMaxPool MaxPool "
        "ReduceMean ReduceMax ReduceMin"
    )
)
_ELEMENTWISE = frozenset(ops("Add Sub Mul Div Pow Min Max Sum Mean PRelu BiasGelu FastGelu"))
_FOLDS = frozenset(ops("Conv Gemm MatMul"))


def pads(node: Node) -> bool:
    """Whether a convolution reads zeros beyond the border, as far as its attributes tell."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    return any(node.attrs.get("pads", ())) or auto.startswith("SAME")


def folds(node: Node, mask: Mask) -> bool:
    """Whether a constant that ``node`` sums over at this mask can become its bias."""
    if node.op not in _FOLDS or node.domain not in ("", "ai.onnx") or mask.index != 0 or mask.point is not None:
        return False
    weight = constant_value(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if weight is None or weight.ndim < 2 or int(node.attrs.get("group", 1)) != 1 or node.attrs.get("transA"):
        return False
    if node.op == "MatMul" and weight.ndim != 2:
        return False
    return bias is None or (is_constant(bias) and (node.op != "Gemm" or float(node.attrs.get("beta", 1.0)) == 1.0))


class Constants:
    """Which classes have one value for all inputs in which tensor."""

    def __init__(self, coupling: Coupling, zeros: Zeros) -> None:
        self._coupling = coupling
        self._zeros = zeros
        self._none = np.zeros(len(coupling.solution.frozen), bool)
        self._table: dict[object, Bools] = {}
        for tensor, axes, edges in coupling.weight_axes():
            value = constant_value(tensor)
            if value is not None and value.dtype.kind in "fiu":
                self._table.update(dict.fromkeys(edges, self._uniform(value, axes)))
        for node in coupling.graph.nodes:
            rule = _RULES.get(node.op) if node.domain in ("", None, "com.microsoft") else None
            if rule is not None:
                self._table.update({t: rule(self, node) for t in node.outputs if not t.is_empty()})

    def of(self, node: Node, index: int) -> Bools:
        """The constant classes of an input, those that are zero included."""
        if index >= len(node.inputs):
            return self._none
        found = self._table.get((node, index))
        if found is None:
            found = self._table.get(node.inputs[index], self._none)
        return found | self._zeros.of(node, index)

    def _uniform(self, value: Array, axes: Axes) -> Bools:
        """Classes all of whose elements are equal."""
        low, high = np.full(len(self._none), np.inf), np.full(len(self._none), -np.inf)
        for place, axis in enumerate(axes):
            classes = self._coupling.solution.classes(axis)
            if classes is not None and value.size:
                others = tuple(k for k in range(value.ndim) if k != place)
                np.minimum.at(low, classes, value.min(axis=others))
                np.maximum.at(high, classes, value.max(axis=others))
        return np.asarray(low == high)

    def _present(self, node: Node) -> Bools:
        return self._zeros.present(self._coupling.record.axes.get(node.outputs[0], ()))

    def _first(self, node: Node) -> Bools:
        fixed = all(t.is_empty() or is_constant(t) for t in node.inputs[1:])
        return self.of(node, 0) & self._present(node) if fixed or node.op == "CastLike" else self._none

    def _moved(self, node: Node) -> Bools:
        if node.op == "Pad":
            return self._none
        out, seen = self._present(node), self._none.copy()
        for index, tensor in enumerate(node.inputs):
            if not tensor.is_empty():
                here = self._zeros.present_at(node, index)
                out = out & (self.of(node, index) | ~here) & ~(seen & here)
                seen = seen | here
        return out

    def _elementwise(self, node: Node) -> Bools:
        out, zero = self._present(node), self._none.copy()
        for index, tensor in enumerate(node.inputs):
            if tensor.is_empty():
                continue
            value = constant_value(tensor)
            if value is None or value.size != 1:
                out = out & self.of(node, index)
            if node.op == "Mul":
                zero |= self._zeros.of(node, index)
        return out | (zero & self._present(node))

    def _batch_norm(self, node: Node) -> Bools:
        if node.attrs.get("training_mode") or len(node.outputs) > 1:
            return self._none
        tables: Bools = np.logical_and.reduce([self.of(node, i) for i in range(1, 5)])
        found: Bools = tables & (self.of(node, 0) | self._zeros.of(node, 1)) & self._present(node)
        return found

    def _product(self, node: Node) -> Bools:
        """Rows whose weights are zero or meet a constant."""
        weight = constant_value(node.inputs[1])
        places = None if weight is None else weight_places(node, weight.ndim)
        found = self._none.copy()
        if weight is None or places is None or node.op == "ConvTranspose":
            return found
        produced, contracted = places
        axes = self._zeros.axes_at(node, 1)
        rows = self._coupling.solution.classes(axes[produced])
        if rows is None:
            return found
        if len(np.unique(rows)) < len(rows):
            return found
        used = np.asarray(weight != 0)
        columns = self._coupling.solution.classes(axes[contracted])
        if columns is not None and int(node.attrs.get("group", 1)) == 1:
            dead = (self._zeros if pads(node) else self).of(node, 0)[columns]
            used = used & ~dead.reshape([-1 if k == contracted else 1 for k in range(weight.ndim)])
        alive = used.any(axis=tuple(k for k in range(weight.ndim) if k != produced))
        found[rows[~alive]] = True
        found[rows[alive]] = False
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            found = found & self.of(node, 2)
        return found & self._present(node)


_RULES: Mapping[str, Callable[[Constants, Node], Bools]] = {
    **dict.fromkeys(_UNARY, Constants._first),
    **dict.fromkeys(_ELEMENTWISE, Constants._elementwise),
    **dict.fromkeys(MOVE, Constants._moved),
    **dict.fromkeys(_FOLDS, Constants._product),
    "BatchNormalization": Constants._batch_norm,
}


@dataclass
class Folding:
    """What the consumers of removed constants get: per node, a vector over its (unpruned) output positions."""

    biases: dict[Node, Array] = field(default_factory=dict)

    def apply(self, graph: Graph, keep: KeepSet) -> int:
        """Add the vectors to the biases of the pruned graph; how many nodes got something."""
        for node, vector in self.biases.items():
            axes = keep.coupling.record.axes[node.outputs[0]]
            mask = keep.mask(axes[1 if node.op == "Conv" else -1])
            _add_bias(graph, node, vector[mask])
        return len(self.biases)


def _add_bias(graph: Graph, node: Node, vector: Array) -> None:
    if node.op == "MatMul":
        old = node.outputs[0]
        raw = graph.new_variable(f"{old.name}_product", old.dtype, None if old.shape is None else list(old.shape))
        node.outputs[0] = raw
        graph.add_node("Add", [raw, graph.new_constant(f"{node.name}_bias", vector)], [old], name=f"{node.name}_bias")
        graph.sort()
        return
    given = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    value = None if given is None else constant_value(given)
    total = vector if value is None else np.asarray(value + vector, vector.dtype)
    made = graph.new_constant(f"{node.name}_bias", total)
    if len(node.inputs) > 2:
        node.inputs[2] = made
    else:
        node.inputs.append(made)


def plan(model: Model, keep: KeepSet, feeds: Mapping[str, Array]) -> Folding:
    """What the removal of constant units takes from their consumers. Runs the unpruned ``model`` once.

    Units that are not constant take nothing with them; whether they may go is not asked here.
    """
    record = keep.coupling.record
    same = Constants(keep.coupling, Zeros(keep.coupling).run())
    edges = [m for m in record.masks if keep.changed(m.labels) and folds(m.node, m)]
    folding = Folding()
    if not edges:
        return folding
    from graphopt.transforms.prune.equivalence import run_once

    inner = {m.node.inputs[0] for m in edges if m.node.inputs[0].inputs}
    values = run_once(model, [t.name for t in inner], feeds)
    for mask in edges:
        value = values.get(mask.node.inputs[0].name, feeds.get(mask.node.inputs[0].name))
        classes = keep.coupling.solution.classes(mask.labels)
        assert classes is not None
        gone = ~keep.mask(mask.labels) & same.of(mask.node, 0)[classes]
        if value is None or not value.size or not gone.any() or pads(mask.node):
            continue
        moved = np.moveaxis(value, mask.axis, 0)[gone].reshape(int(gone.sum()), -1)
        vector = _contribution(mask.node, gone, moved[:, 0])
        if vector.any():
            folding.biases[mask.node] = folding.biases.get(mask.node, 0) + vector
    return folding


def _contribution(node: Node, gone: Array, values: Array) -> Array:
    weight = constant_value(node.inputs[1])
    assert weight is not None
    places = weight_places(node, weight.ndim)
    assert places is not None
    produced, contracted = places
    rows = np.moveaxis(np.asarray(weight, np.float64), (produced, contracted), (0, 1))
    rows = rows.reshape(*rows.shape[:2], -1).sum(axis=2)[:, gone]
    scale = float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
    return np.asarray(scale * (rows @ values.astype(np.float64)), weight.dtype)
