"""Random small models for property tests: data movement, arithmetic, shape arithmetic, branches, shared weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
BATCH = 2


@dataclass
class Value:
    """A tensor that exists: its name and its shape when the batch extent is ``BATCH``."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Draft:
    """A graph in the making."""

    draw: Callable[[st.SearchStrategy], object]
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.prefix}t{self.count}"

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], outputs: int = 1, **attrs: object) -> Value:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attrs))
        made = Value(names[0], shape)
        self.values.append(made)
        return made

    def const(self, array: np.ndarray) -> str:
        """A weight: an initializer, a Constant node, or one that exists already."""
        kind_of = (array.dtype, array.shape, array.tobytes())
        held = [(w.name, numpy_helper.to_array(w)) for w in self.weights]
        same = [name for name, a in held if (a.dtype, a.shape, a.tobytes()) == kind_of]
        kind = self.draw(st.integers(0, 3))
        if same and kind == 0:
            return same[0]
        name = self.name()
        tensor = numpy_helper.from_array(array, name)
        if kind == 1:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def floats(self, shape: tuple[int, ...]) -> str:
        kind = self.draw(st.sampled_from(["random", "zero", "one", "half"]))
        fill = {"zero": 0.0, "one": 1.0, "half": 0.5}.get(str(kind))
        if fill is None:
            seed = self.draw(st.integers(0, 3))
            return self.const(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
        return self.const(np.full(shape, fill, np.float32))

    def pick(self, rank: int | None = None) -> Value:
        fitting = [v for v in self.values if rank is None or len(v.shape) == rank]
        return self.draw(st.sampled_from(fitting or self.values))


def unary(d: Draft) -> None:
    x = d.pick()
    ops = ["Relu", "Neg", "Abs", "Identity", "Tanh", "Sigmoid", "Dropout", "Exp", "Floor", "Sqrt", "Erf"]
    d.node(str(d.draw(st.sampled_from(ops))), [x.name], x.shape)


def with_constant(d: Draft) -> None:
    x = d.pick()
    keep = d.draw(st.lists(st.booleans(), min_size=len(x.shape), max_size=len(x.shape)))
    first = 1 if x.shape else 0
    shape = tuple(s if k and i >= first else 1 for i, (s, k) in enumerate(zip(x.shape, keep, strict=True)))
    inputs = [x.name, d.floats(shape if d.draw(st.booleans()) else ())]
    op = str(d.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Pow"])))
    if d.draw(st.booleans()) and op not in ("Pow", "Div"):
        inputs.reverse()
    d.node(op, inputs, x.shape)


def binary(d: Draft) -> None:
    x = d.pick()
    same = [v for v in d.values if v.shape == x.shape]
    y = d.draw(st.sampled_from(same))
    d.node(str(d.draw(st.sampled_from(["Add", "Sub", "Mul", "Max"]))), [x.name, y.name], x.shape)


def transpose(d: Draft) -> None:
    x = d.pick()
    perm = list(d.draw(st.permutations(range(len(x.shape)))))
    d.node("Transpose", [x.name], tuple(x.shape[p] for p in perm), perm=perm)


def flatten_computed(d: Draft) -> None:
    """x.reshape(x.shape[0], -1) and the like, as exporters write it."""
    x = d.pick()
    if len(x.shape) < 2 or x.shape[0] == 0:
        return
    shape = d.node("Shape", [x.name], (len(x.shape),))
    d.values.pop()
    at = d.node("Gather", [shape.name, d.const(np.array(0, np.int64))], ())
    d.values.pop()
    first = d.node("Unsqueeze", [at.name, d.ints(0)], (1,))
    d.values.pop()
    rest = -1 if d.draw(st.booleans()) else int(np.prod(x.shape[1:]))
    target = d.node("Concat", [first.name, d.ints(rest)], (2,), axis=0)
    d.values.pop()
    d.node("Reshape", [x.name, target.name], (x.shape[0], int(np.prod(x.shape[1:]))))


def reshape(d: Draft) -> None:
    x = d.pick()
    if not x.shape or 0 in x.shape:
        return
    target = [0, 1, -1] if d.draw(st.booleans()) else [0, -1]
    shape = (x.shape[0], *([1] if len(target) == 3 else []), int(np.prod(x.shape[1:])))
    if len(target) == 3 and len(x.shape) < 2:
        return
    d.node("Reshape", [x.name, d.ints(*target)], shape)


def unsqueeze(d: Draft) -> None:
    x = d.pick()
    axis = int(d.draw(st.integers(0, len(x.shape))))
    if len(x.shape) < 5:
        d.node("Unsqueeze", [x.name, d.ints(axis)], (*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(d: Draft) -> None:
    x = d.pick()
    ones = [i for i, s in enumerate(x.shape) if s == 1]
    if ones:
        axis = int(d.draw(st.sampled_from(ones)))
        d.node("Squeeze", [x.name, d.ints(axis)], (*x.shape[:axis], *x.shape[axis + 1 :]))


def slice_(d: Draft) -> None:
    x = d.pick()
    if len(x.shape) < 2:
        return
    axis = int(d.draw(st.integers(1, len(x.shape) - 1)))
    extent = x.shape[axis]
    start, end = int(d.draw(st.integers(0, extent))), int(d.draw(st.sampled_from([extent, 2**63 - 1, -1])))
    step = int(d.draw(st.sampled_from([1, 1, 2])))
    length = len(range(*slice(start, end, step).indices(extent)))
    if length:
        inputs = [x.name, d.ints(start), d.ints(end), d.ints(axis), d.ints(step)]
        d.node("Slice", inputs, (*x.shape[:axis], length, *x.shape[axis + 1 :]))


def concat(d: Draft) -> None:
    x = d.pick()
    if x.shape:
        axis = int(d.draw(st.integers(0, len(x.shape) - 1)))
        times = int(d.draw(st.integers(1, 2)))
        shape = (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :])
        if np.prod(shape) < 2000:
            d.node("Concat", [x.name] * times, shape, axis=axis)


def split(d: Draft) -> None:
    x = d.pick()
    axes = [i for i, s in enumerate(x.shape) if i and s > 1]
    if not axes:
        return
    axis = int(d.draw(st.sampled_from(axes)))
    sizes = (1, x.shape[axis] - 1)
    names = [d.name(), d.name()]
    d.nodes.append(helper.make_node("Split", [x.name, d.ints(*sizes)], names, axis=axis))
    for name, size in zip(names, sizes, strict=True):
        d.values.append(Value(name, (*x.shape[:axis], size, *x.shape[axis + 1 :])))
    order = names if d.draw(st.booleans()) else names[::-1]
    if d.draw(st.booleans()):
        d.node("Concat", order, x.shape, axis=axis)


def pad(d: Draft) -> None:
    x = d.pick()
    if len(x.shape) < 2:
        return
    amounts = [int(d.draw(st.integers(0, 1))) if i >= 1 else 0 for i in range(len(x.shape))]
    d.node("Pad", [x.name, d.ints(*amounts, *amounts)], tuple(s + 2 * a for s, a in zip(x.shape, amounts, strict=True)))


def reduce_(d: Draft) -> None:
    x = d.pick()
    if len(x.shape) < 2:
        return
    axis, keep = int(d.draw(st.integers(1, len(x.shape) - 1))), bool(d.draw(st.booleans()))
    shape = (*x.shape[:axis], *([1] if keep else []), *x.shape[axis + 1 :])
    op = str(d.draw(st.sampled_from(["ReduceMax", "ReduceMean"])))
    d.node(op, [x.name], shape, axes=[axis], keepdims=int(keep))


def linear(d: Draft) -> None:
    x = d.pick()
    if len(x.shape) < 2:
        return
    out = int(d.draw(st.integers(1, 4)))
    weight = d.const(np.random.default_rng(out).standard_normal((x.shape[-1], out)).astype(np.float32))
    made = d.node("MatMul", [x.name, weight], (*x.shape[:-1], out))
    if d.draw(st.booleans()):
        d.node("Add", [made.name, d.floats((out,))], made.shape)


def convolution(d: Draft) -> None:
    x = d.pick(4)
    if len(x.shape) != 4 or min(x.shape[1:]) < 1:
        return
    out = int(d.draw(st.integers(1, 3)))
    weight = np.random.default_rng(out).standard_normal((out, x.shape[1], 1, 1)).astype(np.float32)
    made = d.node("Conv", [x.name, d.const(weight)], (x.shape[0], out, *x.shape[2:]))
    if d.draw(st.booleans()):
        rows = np.abs(np.random.default_rng(0).standard_normal((4, out))).astype(np.float32) + np.float32(0.5)
        stats = [d.const(row) for row in rows]
        d.node("BatchNormalization", [made.name, *stats], made.shape)


def casts(d: Draft) -> None:
    x = d.pick()
    middle = int(d.draw(st.sampled_from([TensorProto.DOUBLE, TensorProto.FLOAT])))
    first = d.node("Cast", [x.name], x.shape, to=middle)
    d.values.pop()
    d.node("Cast", [first.name], x.shape, to=TensorProto.FLOAT)


def expand(d: Draft) -> None:
    x = d.pick()
    if x.shape:
        d.node("Expand", [x.name, d.ints(*[1] * len(x.shape))], x.shape)


def branch(d: Draft) -> None:
    """An If whose branches read values from around it; the condition is fixed or an input."""
    x = d.pick()
    known = bool(d.draw(st.booleans()))
    condition = d.const(np.array(bool(d.draw(st.booleans())))) if known else "condition"
    graphs = []
    for index in range(2):
        inner = Draft(d.draw, f"{d.prefix}{d.count}b{index}_", values=list(d.values))
        for _ in range(int(d.draw(st.integers(0, 2)))):
            d.draw(st.sampled_from([unary, with_constant, transpose]))(inner)
        end = inner.node("Abs" if index else "Neg", [x.name], x.shape)
        same = [v for v in inner.values if v.shape == x.shape and v.name.startswith(inner.prefix)]
        end = d.draw(st.sampled_from(same))
        output = helper.make_tensor_value_info(end.name, TensorProto.FLOAT, [None] * len(x.shape))
        graphs.append(helper.make_graph(inner.nodes, f"branch{index}", [], [output], inner.weights))
    d.node("If", [condition], x.shape, then_branch=graphs[0], else_branch=graphs[1])


STEPS = (
    *(unary, with_constant, with_constant, binary, transpose, flatten_computed, reshape, unsqueeze, squeeze, slice_),
    *(concat, split, pad, reduce_, linear, convolution, casts, expand, branch),
)


@st.composite
def models(draw: Callable[[st.SearchStrategy], object]) -> onnx.ModelProto:
    """A valid model of up to 14 steps with one or two outputs, static or with a symbolic batch extent."""
    d = Draft(draw)
    shape = draw(st.sampled_from([(BATCH, 3, 2, 2), (BATCH, 4), (BATCH, 1, 3), (BATCH, 2, 1, 3)]))
    d.values.append(Value("x", shape))
    for _ in range(draw(st.integers(1, 14))):
        draw(st.sampled_from(STEPS))(d)
    made = [v for v in d.values if v.name != "x"]
    if not made:
        made = [d.node("Relu", ["x"], shape)]
    ends = dict.fromkeys([made[-1].name, draw(st.sampled_from(made)).name])
    first = "N" if draw(st.booleans()) else BATCH
    ranks = {v.name: len(v.shape) for v in d.values}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * ranks[n]) for n in ends]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, *shape[1:]]),
        helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(d.nodes, "random", inputs, outputs, d.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
