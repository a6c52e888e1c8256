"""Try one execution provider in this process and write the answer as JSON: ``python -m graphopt.runtime.probe``.

It runs in a child so that a provider that crashes, hangs or writes to the terminal does no harm, and so that its
log can be read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ProviderError
from graphopt.runtime.ort_errors import ort_exceptions, shorten
from graphopt.runtime.providers import CPU, Provider, preload, provider, register_plugin


def probe(row: Provider) -> dict[str, Any]:
    """Run a MatMul and a Relu on the provider. Keys: usable, reason, evidence."""
    import onnxruntime

    evidence = f"onnxruntime {onnxruntime.__version__}"
    preload(row)
    try:
        devices = register_plugin(row)
    except ProviderError as error:
        return _no(str(error), evidence)
    if row.execution_provider not in onnxruntime.get_available_providers() and not devices:
        return _no(_missing(row, evidence), evidence)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if row.execution_provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if devices:
        options.add_provider_for_devices(list(devices), {})
    try:
        session = onnxruntime.InferenceSession(
            _model(), options, providers=None if devices else [row.execution_provider], enable_fallback=0
        )
        used = session.get_providers()
        if row.execution_provider not in used:
            return _no(f"a session that asked for {row.execution_provider} runs on {', '.join(used)}", evidence)
        elsewhere = _elsewhere(session, row)
        if elsewhere:
            return _no(f"its nodes were given to {', '.join(elsewhere)}", evidence)
        x, w = np.arange(8, dtype=np.float32).reshape(2, 4), np.eye(4, dtype=np.float32)
        result = session.run(None, {"x": x - 4, "w": w})[0]
    except ort_exceptions() as error:
        return _no(shorten(str(error)), evidence)
    if not np.allclose(result, np.maximum(x - 4, 0)):
        return _no("it ran a MatMul and a Relu and gave wrong numbers", evidence)
    return {"usable": True, "reason": "", "evidence": f"{evidence} ran MatMul and Relu on {row.execution_provider}"}


def _missing(row: Provider, evidence: str) -> str:
    import importlib.util

    installed = [module for module in row.plugins if importlib.util.find_spec(module) is not None]
    if installed:
        return f"the plugin {installed[0]} is installed but finds no device that it supports"
    return f"{evidence} here was built without {row.execution_provider}; install {row.install}"


def _elsewhere(session: Any, row: Provider) -> list[str]:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    names = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    return sorted(names - {row.execution_provider})


def _no(reason: str, evidence: str) -> dict[str, Any]:
    return {"usable": False, "reason": reason, "evidence": evidence}


def _model() -> bytes:
    from onnx import TensorProto, helper

    def info(name: str, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    graph = helper.make_graph(nodes, "probe", [info("x", [2, 4]), info("w", [4, 4])], [info("y", [2, 4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(probe(provider(sys.argv[1]))), "utf-8")
