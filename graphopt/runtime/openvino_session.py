"""A model loaded in the OpenVINO runtime (package ``openvino``): a second runtime to run and time a model in.

It takes ONNX files as they are, runs every Q/DQ style on integers on the CPU, and so times a model that was quantized
for TensorRT fairly, which ONNX Runtime's CPU provider does not.
"""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.feeds import Feeds
from graphopt.data.interface import read_interface
from graphopt.errors import ProviderError, UnsupportedError

RUNTIME = "openvino"
_INSTALL = "the OpenVINO runtime is not installed: pip install 'graphopt[openvino]'"


def openvino_installed() -> bool:
    """Whether the openvino package is there. Imports nothing."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoSession:
    """One model compiled for the CPU, ready to run. ``load_ms`` is how long reading and compiling took.

    Float layers run in float32: left alone, OpenVINO computes in bfloat16 on processors that have it.

    Raises:
        ProviderError: the package is not installed.
        UnsupportedError: OpenVINO does not take the model.
    """

    def __init__(self, model: bytes | Path, threads: int = 1) -> None:
        if not openvino_installed():
            raise ProviderError(_INSTALL)
        import openvino

        self.interface = read_interface(model)
        self.threads = threads
        self.version = str(openvino.__version__).split("-")[0]
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        started = time.perf_counter()
        core = openvino.Core()
        try:
            network = core.read_model(io.BytesIO(model) if isinstance(model, bytes) else str(model))
            self._compiled: Any = core.compile_model(network, "CPU", options)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:300]
            raise UnsupportedError(f"OpenVINO {self.version} does not compile the model: {text}") from error
        self.load_ms = (time.perf_counter() - started) * 1000
        self._request: Any = self._compiled.create_infer_request()

    @property
    def provider(self) -> str:
        """Name of the runtime, in place of an execution provider."""
        return f"{RUNTIME} runtime"

    @property
    def providers(self) -> tuple[str, ...]:
        """What it runs on, in OpenVINO's words."""
        return (f"OpenVINO {self.version} {','.join(self._compiled.get_property('EXECUTION_DEVICES'))}",)

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run once; output name -> array."""
        found = self._request.infer(dict(feeds))
        names = [info.name for info in self.interface.outputs]
        return {name: np.array(found[index]) for index, name in enumerate(names)}

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs ``feeds`` with no checks around it."""
        self.run(feeds)
        request, ready = self._request, dict(feeds)
        return lambda: request.infer(ready, share_inputs=True, share_outputs=True)
