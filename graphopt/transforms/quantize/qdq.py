"""Static quantization of a model for a target: probe, plan, calibrate, insert, check what really became integer.

Every choice that costs or wins accuracy is made on samples held back from the calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphopt.data.feeds import Dataset
from graphopt.errors import UnsupportedError
from graphopt.model import Model
from graphopt.results import counted
from graphopt.targets.base import Target
from graphopt.targets.profile import load_profile
from graphopt.transforms.quantize.choose import Chooser
from graphopt.transforms.quantize.config import QuantConfig, Quantized
from graphopt.transforms.quantize.insert import Settings
from graphopt.transforms.quantize.lift import Trained, is_incomplete, lift
from graphopt.transforms.quantize.opset import raise_opset
from graphopt.transforms.quantize.probe import Probe, probe
from graphopt.transforms.quantize.run import Run

__all__ = ["QuantConfig", "Quantized", "quantize_model"]


def quantize_model(model: Model, data: Dataset, target: Target, config: QuantConfig) -> Quantized | None:
    """Quantize ``model`` in place; None when the target gains nothing from any layer (the model is as it was).

    Raises:
        UnsupportedError: the target has no int8, or the model is float16.
        DataError: no data, or values that are not finite.
        UsageError: the target does not take ``types``.
    """
    if target.no_int8:
        raise UnsupportedError(f"target {target.name}: {target.no_int8}. Leave the model in float there")
    activation, weight = target.grids(config.types, config.per_channel)
    profile = config.profile or (load_profile(target.profile) if target.profile else None)
    saturates = bool(target.reduced_without and profile and not profile.vnni)
    reduced = not weight.int_type.floating and (saturates if config.reduced is None else config.reduced)
    settings = Settings(activation, weight, reduced, weight.int_type.high < 64)
    wide = activation.int_type.levels > 255 and not activation.int_type.floating
    if wide:
        profile, config = None, replace(config, check=False)
    before = model.opsets[""]
    work = model.clone()
    _name_nodes_apart(work)
    probes = probe(work, data)
    raised = raise_opset(work, {n: len(p.shape) for n, p in probes.items()})
    _refuse_half(work, probes)
    needed = max(t.int_type.opset for t in (activation, weight))
    if work.opsets[""] < needed:
        work.convert_opset(needed)
        raised = True
    trained = lift(work, activation) if is_incomplete(work, target) else None
    if trained is not None:
        settings = replace(settings, trained=trained.params, scales=trained.scales)
        config = _keeping(config, trained)
    if raised or trained is not None:
        probes = probe(work, data)
    done = Chooser(Run(work.clone(), data, target, config, settings, profile, probes)).choose()
    if done is None:
        return None
    if trained is not None:
        done.notes = (
            f"Q/DQ that was there is kept and completed: grids of {counted(len(trained.params), 'tensor')} and "
            f"{counted(len(trained.scales), 'weight')}",
            *done.notes,
        )
    model.graph, model.functions, model.ir_version = done.model.graph, done.model.functions, done.model.ir_version
    if wide:
        done.notes = (f"{target.name} computes {activation.type} in float; other runtimes have kernels", *done.notes)
    done.profile = profile
    done.raised_from = before if raised else None
    return done


def _keeping(config: QuantConfig, trained: Trained) -> QuantConfig:
    """Nodes that ran on integers still do, on the weights that they were trained with."""
    force = config.force
    return replace(config, equalize=False, force=lambda node: force(node) or trained.covers(node))


def _name_nodes_apart(model: Model) -> None:
    """Give nodes whose name another node has a new one; ONNX Runtime does not load duplicates."""
    seen: set[str] = set()
    for node in model.graph.walk():
        if node.name in seen:
            node.name = model.graph.unique_name(node.name)
        if node.name:
            seen.add(node.name)


def _refuse_half(model: Model, probes: Mapping[str, Probe]) -> None:
    halves = [c for g in model.graph.graphs() for c in g.initializers if c.dtype == "float16" and len(c.shape) > 1]
    if halves and not probes:
        raise UnsupportedError(
            f"weights such as {halves[0].name!r} are float16; integer kernels start from float32. "
            "Quantize the float32 model, or run cast:to=float32 before quantize"
        )
