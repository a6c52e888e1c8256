"""What a target is: a frozen description that passes read. No target has code of its own.

A target lists the operators that have low-precision kernels (``OpRule``), what the runtime demands of the Q/DQ
around them (types, symmetry, axis, bias, rank of scales), what stays in float and why (``FloatRule``), which channel
multiples are fast, and where its latency profile is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np

from graphopt.errors import UsageError

Kind: TypeAlias = Literal["compute", "pointwise", "unary", "join", "mover"]
Axis: TypeAlias = Literal["first", "last", "gemm", "transposed"]
Output: TypeAlias = Literal["required", "optional"]
Placement: TypeAlias = Literal["regions", "inputs"]
AttrValue: TypeAlias = int | float | str


@dataclass(frozen=True)
class IntType:
    """A type that values are stored in: integers, or ``floating`` ones of few bits.

    Four-bit values are kept in bytes, since no 8-bit kernel reads packed ones. ``opset``: first ``ai.onnx`` version
    whose Q/DQ take the type.
    """

    name: str
    low: int
    high: int
    container: str = ""
    floating: bool = False
    opset: int = 13

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy type that it is stored in: its own, or ``container``."""
        return np.dtype(ml_dtypes.float8_e4m3fn) if self.floating else np.dtype(self.container or self.name)

    def store(self, values: Any, low: int | None = None, high: int | None = None) -> Any:
        """Values in steps as stored: rounded half to even, saturated at ``low`` and ``high`` (None: the type's)."""
        least, most = self.low if low is None else low, self.high if high is None else high
        return np.clip(values if self.floating else np.rint(values), least, most).astype(self.dtype)

    @property
    def levels(self) -> int:
        """Number of steps between the lowest and the highest value."""
        return self.high - self.low


INT_TYPES: Mapping[str, IntType] = MappingProxyType(
    {
        t.name: t
        for t in (
            IntType("uint8", 0, 255),
            IntType("int8", -128, 127),
            IntType("uint16", 0, 65535, opset=21),
            IntType("int16", -32768, 32767, opset=21),
            IntType("float8e4m3fn", -448, 448, floating=True, opset=19),
            IntType("int32", -(2**31), 2**31 - 1),
            IntType("uint4", 0, 15, "uint8"),
            IntType("int4", -8, 7, "int8"),
        )
    }
)


@dataclass(frozen=True)
class Grid:
    """How a kind of tensor is quantized: type, and whether its zero point must be 0 (symmetric)."""

    type: str
    symmetric: bool
    per_channel: bool = False

    @property
    def int_type(self) -> IntType:
        """The integer type."""
        return INT_TYPES[self.type]


@dataclass(frozen=True)
class OpRule:
    """An operator with a low-precision kernel.

    Attributes:
        op: operator of ``ai.onnx``.
        kind: ``compute`` has a weight and dominates the time; ``pointwise`` and ``unary`` have a kernel of their own
            grid; ``join`` (Concat) runs best when all its tensors share one grid; ``mover`` must have the same grid
            before and after.
        inputs: positions of the float operands that get Q/DQ; empty means all of them.
        weight: position of the weight; ``axis`` says where its output channels are.
        bias: position of the bias.
        output: whether the kernel is only used when a Q follows.
        attrs: attribute values that the kernel needs (a missing attribute counts as the first value).
        range: the value range of the output when the operator fixes it.
        constant_weight: the weight must be constant for the kernel to exist.
    """

    op: str
    kind: Kind
    inputs: tuple[int, ...] = (0,)
    weight: int | None = None
    axis: Axis = "first"
    bias: int | None = None
    output: Output = "required"
    attrs: Mapping[str, tuple[AttrValue, ...]] = field(default_factory=dict)
    range: tuple[float, float] | None = None
    constant_weight: bool = True

    @property
    def shares_grid(self) -> bool:
        """Whether input and output should have the same scale and zero point."""
        return self.kind in ("mover", "join")


@dataclass(frozen=True)
class FloatRule:
    """A class of layers that stays in float although a kernel exists. ``test`` names a fact of ``LayerFacts``."""

    op: str
    test: Literal["depthwise", "grouped", "narrow", "gemv"]
    below: int
    why: str


@dataclass(frozen=True)
class Target:
    """Everything graphopt knows about a target.

    Attributes:
        name: as given to ``--target``.
        activation, weight: grids of activations and weights.
        bias: how biases are stored: ``int32`` behind a DequantizeLinear, or ``float32``.
        placement: ``regions``: whole connected regions become integer, Q/DQ at their borders and behind each kernel;
            ``inputs``: only the inputs of compute operators are quantized, as TensorRT fuses best.
        rules: operators with low-precision kernels.
        keep_float: layers that stay in float.
        absorbs: activations that the kernel before them takes over.
        align: channel multiples that are fast, by precision.
        max_opset: the newest operator set that the runtime accepts; None when every one of this ONNX Runtime's.
        provider: execution provider of ONNX Runtime that runs it, "" when another runtime is needed.
        profile: file name of the shipped latency profile, "" when there is none.
        reduced_without: CPU flag without which 8-bit products saturate, so weights get 7 bits; "" when never.
        scale_rank: rank of a per-tensor scale and zero point.
        types: flavours that ``types=`` may choose, activation and weight.
        no_int8: why there is no int8 at all; "" when there is.
        dynamic: operators with a kernel that quantizes its input as it runs.
        weight_only: the form of weights in few bits that runs best: MatMulNBits, or DequantizeLinear with blocks.
        weight_types: types that weights may have there when only they are quantized.
        narrow_floats: float types under 32 bits that the runtime has kernels for, or casts for on its own.
        no_half: operators that stay in float32 when a model is cast to float16 or bfloat16. ``half_note``: what the
            user should know about half precision there.
    """

    name: str
    description: str
    activation: Grid
    weight: Grid
    bias: Literal["int32", "float32"]
    placement: Placement
    rules: tuple[OpRule, ...]
    keep_float: tuple[FloatRule, ...] = ()
    absorbs: tuple[str, ...] = ()
    align: Mapping[str, int] = field(default_factory=dict)
    max_opset: int | None = None
    provider: str = ""
    profile: str = ""
    reduced_without: str = ""
    scale_rank: int = 0
    types: tuple[tuple[str, str], ...] = ()
    no_int8: str = ""
    dynamic: tuple[str, ...] = ()
    weight_only: Literal["matmulnbits", "dequantize"] = "dequantize"
    weight_types: tuple[str, ...] = ("int4", "uint4", "int8")
    narrow_floats: tuple[str, ...] = ("float16", "bfloat16")
    no_half: tuple[str, ...] = ()
    half_note: str = ""

    def rule(self, op: str) -> OpRule | None:
        """The rule of an ``ai.onnx`` operator, or None when it has no low-precision kernel here."""
        return next((r for r in self.rules if r.op == op), None)

    def alignment(self, precision: str, before_depthwise: bool = False) -> int:
        """Channel multiple that is fast at ``precision`` (``float32``, ``int8``, ...)."""
        key = f"{precision}-depthwise" if before_depthwise else precision
        return self.align.get(key, self.align.get(precision, 1))

    def grids(self, types: str | None, per_channel: bool = True) -> tuple[Grid, Grid]:
        """Grids of activations and weights for a flavour such as ``u8s8`` (None: the target's own).

        Raises:
            UsageError: the target does not take that flavour; the message lists those that it takes.
        """
        chosen = (self.activation.type, self.weight.type) if types is None else parse_types(types)
        allowed = self.types or ((self.activation.type, self.weight.type),)
        if chosen not in allowed:
            names = ", ".join(format_types(t) for t in allowed)
            raise UsageError(f"target {self.name} does not take types={types}; it takes {names}")
        symmetric = self.activation.symmetric
        weight = Grid(chosen[1], self.weight.symmetric, per_channel and self.weight.per_channel)
        return Grid(chosen[0], symmetric), weight


_LETTERS = {"u": "uint", "s": "int"}


def parse_types(text: str) -> tuple[str, str]:
    """``u8s4`` -> ("uint8", "int4"): activation, weight.

    Raises:
        UsageError: the text is not of that form.
    """
    import re

    if text == "f8f8":
        return "float8e4m3fn", "float8e4m3fn"
    match = re.fullmatch(r"([us])(8|16)([us])(4|8)", text)
    if match is None:
        raise UsageError(
            f"types={text!r} is not of the form u8s8: activation then weight, u or s and the bits; or f8f8"
        )
    a, bits, w, weight_bits = match.groups()
    return f"{_LETTERS[a]}{bits}", f"{_LETTERS[w]}{weight_bits}"


def format_types(types: tuple[str, str]) -> str:
    """("uint8", "int8") -> ``u8s8``; float8 is ``f8``."""
    if types[0].startswith("float8"):
        return "f8f8"
    return "".join(("u" if t.startswith("u") else "s") + t.lstrip("uint") for t in types)
