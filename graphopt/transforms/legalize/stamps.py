"""Lowers the opset and IR stamps of a model that is too new for a target, where nothing in it needs the newer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from graphopt.model import Model
from graphopt.runtime.limits import ort_limits
from graphopt.targets.base import Target

if TYPE_CHECKING:
    from graphopt.transforms.legalize.fixes import Job

_IR_OF_TYPE = {
    "bfloat16": 4,
    "float8": 9,
    "int4": 10,
    "uint4": 10,
    "float4": 11,
    "float8_e8m0": 12,
    "int2": 13,
    "uint2": 13,
}


def lower_stamps(job: Job) -> None:
    """Stamp the highest opset and IR version that the target takes, when every operator means the same there. Exact."""
    model, target = job.model, job.target
    opset, ir_version = target_limits(target)
    if opset is not None and model.graph.opset > opset:
        changed = changed_operators(model, opset)
        if model.functions or changed:
            what = f"{changed[0]} changed in between" if changed else "it has local functions"
            job.listener.skipped(None, f"opset stays {model.graph.opset}, newer than {opset}: {what}")
        elif job.listener.allow(None, "opset-stamp"):
            job.listener.did(
                None, f"opset {model.graph.opset} is stamped {opset}; no operator in use changed in between"
            )
            job.listener.count("opset_stamp")
            model.graph.opset = opset
    if ir_version is not None and model.ir_version > ir_version:
        needed = needed_ir_version(model)
        if needed > ir_version:
            job.listener.skipped(None, f"IR version stays {model.ir_version}: the model needs {needed}")
        elif job.listener.allow(None, "ir-stamp"):
            job.listener.did(None, f"IR version {model.ir_version} is stamped {ir_version}")
            job.listener.count("ir_stamp")
            model.ir_version = ir_version


def target_limits(target: Target) -> tuple[int | None, int | None]:
    """Highest opset and IR version that a target takes; None where it has no limit that is known."""
    if target.name.startswith("ort-"):
        limits = ort_limits()
        return limits.opset, limits.ir_version
    return target.max_opset, None


def changed_operators(model: Model, opset: int) -> list[str]:
    """Operators in the model whose definition in ``opset`` is not the one of the model's own opset."""
    used = {n.op for n in model.graph.walk() if not n.domain}
    return sorted(op for op in used if _since(op, opset) != _since(op, model.graph.opset))


def _since(op: str, opset: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def needed_ir_version(model: Model) -> int:
    """The lowest IR version that has the model's opset, types and functions."""
    opset = min(model.graph.opset, onnx.defs.onnx_opset_version())
    needed = int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))
    if model.functions:
        needed = max(needed, 8)
    for graph in model.graph.graphs():
        for tensor in graph.tensors().values():
            name = "" if tensor.dtype is None else tensor.dtype.name
            needed = max([needed, *(ir for prefix, ir in _IR_OF_TYPE.items() if name.startswith(prefix))])
    return needed
