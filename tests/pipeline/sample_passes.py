"""Passes that the pipeline tests run."""

from __future__ import annotations

from typing import Literal

import numpy as np

from graphopt import Model
from graphopt.ir import constant_value
from graphopt.pipeline import (
    Composite,
    Context,
    Op,
    Options,
    Pass,
    Pattern,
    PatternMap,
    Registry,
    Rewrite,
    RewritePass,
    Share,
    Size,
    Tunable,
    Var,
    option,
)


class ScaleOptions(Options):
    factor: float = option(0.5, "Multiply weights by this.", tunable=Tunable(1.0, 0.0, 0.05))
    share: Share = option(1.0, "Share of weights to scale.")
    align: int | Literal["auto"] = option("auto", "Multiple.")
    factors: PatternMap[float] = option(PatternMap(), "Factor by node.")
    skip: tuple[Pattern, ...] = option((), "Nodes to leave alone.")
    cap: Size | None = option(None, "Largest weight to touch.")
    word: str | None = option(None, "Any text.")
    loud: bool = option(False, "Say so.")


class Scale(Pass[ScaleOptions]):
    """Multiply weights."""

    guarantee = "lossy"
    requires = frozenset({"float"})

    def run(self, model: Model, ctx: Context) -> None:
        for node in list(model.graph.walk()):
            for tensor in node.inputs:
                value = constant_value(tensor)
                if value is not None and ctx.allow(node, "scale"):
                    model.graph.set_weight(tensor, (value * self.options.factor).astype(value.dtype))
                    ctx.did(node, f"scaled {tensor.name}")
                    ctx.count("scaled")


class MergeRelu(RewritePass):
    """Merge Relu after Relu."""

    rewrites = (Rewrite("double_relu", Op("Relu", Op("Relu", Var("x"))), lambda m, b: b.op("Relu", m["x"]), "exact"),)


class DropIdentity(RewritePass):
    """Drop Identity."""

    rewrites = (Rewrite("identity", Op("Identity", Var("x")), lambda m, b: m["x"], "exact"),)


class TidyOptions(Options):
    guarantee: Literal["exact", "equivalent"] = option("equivalent", "Passed on.")


class Tidy(Composite[TidyOptions]):
    """Both, to a fixed point."""

    fixed_point = True

    def pipeline(self) -> str:
        return f"merge_relu:guarantee={self.options.guarantee},drop_identity"


class Freeze(Pass):
    """Stands for quantize."""

    guarantee = "lossy"
    quantizes = True

    def run(self, model: Model, ctx: Context) -> None:
        pass


class NeedsData(Pass):
    """Needs data."""

    requires = frozenset({"data"})

    def run(self, model: Model, ctx: Context) -> None:
        pass


class Crash(Pass):
    """Changes everything, then fails."""

    def run(self, model: Model, ctx: Context) -> None:
        node = model.graph.nodes[0]
        node.op = "Nonsense"
        model.metadata_props["left"] = "behind"
        model.graph.outputs.clear()
        raise RuntimeError("boom")


class Dangle(Pass):
    """Leaves a graph that is not one."""

    def run(self, model: Model, ctx: Context) -> None:
        model.graph.nodes.pop(0)


class BadAttribute(Pass):
    """Leaves a graph that the checker refuses."""

    def run(self, model: Model, ctx: Context) -> None:
        model.graph.nodes[-1].attrs["nonsense"] = 1


class Wrong(Pass):
    """Claims to be equivalent, and is not."""

    def run(self, model: Model, ctx: Context) -> None:
        model.graph.nodes[-1].op = "Abs"


class Silent(Pass):
    """Renames the graph without telling anybody."""

    guarantee = "exact"

    def run(self, model: Model, ctx: Context) -> None:
        model.graph.name = "renamed"


class Endless(Composite):
    """Contains itself."""

    def pipeline(self) -> str:
        return "endless"


class Flip(Pass):
    """Never settles."""

    guarantee = "lossy"

    def run(self, model: Model, ctx: Context) -> None:
        node = model.graph.nodes[-1]
        node.op = "Abs" if node.op == "Neg" else "Neg"


class Forever(Composite):
    """Runs Flip to a fixed point that it does not have."""

    fixed_point = True
    max_rounds = 3

    def pipeline(self) -> str:
        return "flip"


class Outer(Composite):
    """Fails inside."""

    def pipeline(self) -> str:
        return "merge_relu,crash"


class Quantile(Pass):
    """Looks at the reference."""

    guarantee = "lossy"

    def run(self, model: Model, ctx: Context) -> None:
        assert ctx.reference is not None
        value = constant_value(ctx.reference.graph.initializers[0])
        ctx.count("reference maximum", float(np.max(value)))


ALL = (
    Scale, MergeRelu, DropIdentity, Tidy, Freeze, NeedsData, Crash, Dangle, BadAttribute, Wrong, Silent, Endless,
    Flip, Forever, Outer, Quantile,
)  # fmt: skip


def make_registry() -> Registry:
    registry = Registry()
    for kind in ALL:
        registry.passes.add(kind.name, kind)
    return registry
