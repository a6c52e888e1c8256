"""Execution providers: which exist, and whether one really runs here.

``onnxruntime.get_available_providers()`` only says what a package was built with; a provider whose libraries or
device are missing falls back to the CPU silently. So a provider counts as usable only after a fresh process has
loaded a small model with fallback disabled, found its nodes assigned to the provider, and run it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.data.interface import nearest_name
from graphopt.errors import ProviderError, UsageError
from graphopt.results import Availability
from graphopt.runtime.ort_errors import shorten

CPU = "CPUExecutionProvider"
PROBE_SECONDS = 120


@dataclass(frozen=True)
class Provider:
    """One row of the table: graphopt's name, ONNX Runtime's name, the packages that bring it.

    ``plugins`` are modules that bring it as a plugin library. ``preload``: its CUDA libraries may come from
    pip packages and have to be loaded first.
    """

    name: str
    execution_provider: str
    install: str
    plugins: tuple[str, ...] = ()
    preload: bool = False


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        row.name: row
        for row in (
            Provider("cpu", CPU, "onnxruntime"),
            Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", preload=True),
            Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu and TensorRT", preload=True),
            Provider(
                "tensorrt-rtx",
                "NvTensorRTRTXExecutionProvider",
                "onnxruntime-ep-nv-tensorrt-rtx-cu13",
                ("onnxruntime_ep_nv_tensorrt_rtx",),
            ),
            Provider(
                "openvino",
                "OpenVINOExecutionProvider",
                "onnxruntime-openvino",
                ("onnxruntime_ep_openvino",),
            ),
        )
    }
)


def provider(name: str) -> Provider:
    """Look up a provider by graphopt's name; UsageError names the nearest one."""
    found = PROVIDERS.get(name.lower())
    if found is None:
        raise UsageError(f"--provider {name}: unknown{nearest_name(name.lower(), PROVIDERS)}")
    return found


def require(name: str) -> Provider:
    """Give the provider when it really runs here; ProviderError (exit 6) with the precise reason when not."""
    row = provider(name)
    if row.execution_provider == CPU:
        return row
    state = availability(row.name)
    if not state.usable:
        raise ProviderError(f"provider {row.name!r} cannot run here: {state.reason}")
    return row


@cache
def availability(name: str) -> Availability:
    """Find out, once a process, whether a provider really runs here, by running a model on it (in a child process)."""
    row = provider(name)
    if row.execution_provider == CPU:
        from graphopt.runtime.probe import probe

        return Availability(row.name, **probe(row))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "graphopt.runtime.probe", row.name, str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return Availability(row.name, False, f"no answer from the provider within {PROBE_SECONDS} s")
        if not answer.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            reason = f"the process that tried it ended with code {done.returncode} ({shorten(last[0])})"
            return Availability(row.name, False, reason)
        result = json.loads(answer.read_text("utf-8"))
    if result["usable"]:
        return Availability(row.name, True, "", result["evidence"])
    return Availability(row.name, False, _explain(result["reason"], done.stderr), result["evidence"])


def register_plugin(row: Provider) -> tuple[Any, ...]:
    """Register the plugin library of a provider and give its devices; () when there is no plugin or no device.

    Raises ProviderError when an installed plugin does not load.
    """
    for module in row.plugins:
        devices = _plugin_devices(module)
        if devices:
            return devices
    return ()


def preload(row: Provider) -> None:
    """Load CUDA and cuDNN libraries that pip packages brought, where ONNX Runtime can do that."""
    import onnxruntime

    if row.preload and hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find; a failure shows when the session is made.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


@cache
def _plugin_devices(module: str) -> tuple[Any, ...]:
    import importlib

    import onnxruntime

    from graphopt.runtime.ort_errors import ort_exceptions

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return ()
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        return ()
    library = Path(plugin.get_library_path())
    if not library.exists():
        raise ProviderError(f"the plugin {module} has lost its library {library}")
    try:
        onnxruntime.register_execution_provider_library(module, str(library))
    except ort_exceptions() as error:
        raise ProviderError(f"the plugin {module} does not load: {shorten(str(error))}") from error
    wanted = plugin.get_ep_name()
    return tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == wanted)


def _explain(reason: str, log: str) -> str:
    """Add what only the log says: the library that is missing, or what the provider needs."""
    found = re.search(r"Failed to load library \S*?([\w.-]+\.(?:so|dll|dylib)\S*) with error: ([^\n\x1b]+)", log)
    if found:
        cause = f"{found[1]} does not load: {found[2].strip()}"
        return cause if "fallback to CPU EP" in reason else f"{cause}. {reason}"
    found = re.search(r"(Failed to create \w+\.[^\n\x1b]*|CUDA failure \d+:[^\n\x1b;]*)", log)
    return f"{shorten(found[1])} {reason}" if found else reason
