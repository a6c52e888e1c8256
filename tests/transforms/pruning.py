"""Helpers: tiny models from text, random keep-sets, masked equivalence."""

from __future__ import annotations

import re

import numpy as np
import onnx

from graphopt import Model, load
from graphopt.analysis.labels import Coupling, analyse
from graphopt.analysis.shapes import interpret
from graphopt.transforms.prune import masking, slicing
from graphopt.transforms.prune.equivalence import Equivalence, check
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.seeded import seeded_feeds
from graphopt.transforms.prune.selection import Policy, by_ratio
from graphopt.transforms.prune.selection_units import Units, find_units


def tiny(text: str, opset: int = 17, microsoft: bool = False, seed: int = 0) -> Model:
    """A model from ``(inputs) => (outputs) { body }``; inputs named w* or b* become random initializers, i* stay.

    Output shapes are dropped, so that any extent is valid.
    """
    domains = f'"" : {opset}' + (', "com.microsoft" : 1' if microsoft else "")
    proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]>\ng {text}")
    random = np.random.default_rng(seed)
    inputs = list(proto.graph.input)
    del proto.graph.input[:]
    for info in inputs:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if not re.match(r"[wb]\d*", info.name) or "x" in info.name:
            proto.graph.input.append(info)
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if dtype.kind == "f":
            values = random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
            values = np.abs(values) + 0.5 if info.name.startswith("bv") else values
        else:
            values = random.integers(-100, 100, shape)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), info.name))
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    model = load(proto)
    facts = interpret(model.graph)
    for tensor in model.graph.outputs:
        if (shape := facts.shape(tensor)) is not None:
            tensor.shape = [None] * len(shape)
    return model


def units_of(model: Model) -> Units:
    """The units of a model."""
    return find_units(analyse(model.graph))


def random_keep(units: Units, ratio: float = 0.5, seed: int = 0, policy: Policy | None = None) -> KeepSet:
    """A random keep-set."""
    scores = np.random.default_rng(seed).random(len(units.family_of))
    return by_ratio(units, scores, policy or Policy(ratio))


def prune_and_check(model: Model, keep: KeepSet, units: Units, seed: int = 0) -> Equivalence:
    """Slice ``model`` and compare it with the oracle."""
    coupling: Coupling = units.coupling
    feeds = seeded_feeds(model.graph, coupling.facts, seed)
    oracle = masking.build(model, coupling, keep)
    slicing.apply(keep)
    onnx.checker.check_model(model.to_proto(), full_check=True)
    return check(model, oracle, coupling, keep, feeds, units.families)
