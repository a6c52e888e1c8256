"""How new a model the installed ONNX Runtime takes: found by trying, because no call tells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Limits:
    """Highest ``ai.onnx`` operator set and IR version that load."""

    version: str
    opset: int
    ir_version: int


@cache
def ort_limits() -> Limits:
    """The limits of the installed ONNX Runtime. Loads a one-node model a few times (milliseconds)."""
    import onnx
    import onnxruntime

    newest_opset, newest_ir = onnx.defs.onnx_opset_version(), int(onnx.IR_VERSION)
    opset = next(v for v in range(newest_opset, 0, -1) if _loads(v, 8) or v == 1)
    ir_version = next(v for v in range(newest_ir, 2, -1) if _loads(13, v) or v == 3)
    return Limits(onnxruntime.__version__, opset, ir_version)


def _loads(opset: int, ir_version: int) -> bool:
    import onnxruntime
    from onnx import TensorProto, helper

    from graphopt.runtime.ort_errors import ort_exceptions

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "limits", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ort_exceptions():
        return False
    return True
