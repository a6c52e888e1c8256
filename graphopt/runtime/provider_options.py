"""Options of the providers, as data: caches, shape profiles, precompiled models and precision flags.

One function a provider turns what graphopt knows about a model and a run into the provider's own options. The option
names are those in ONNX Runtime 1.31's provider libraries. TensorRT 10 wants its int8 and float16 flags even where the
model holds the precision; TensorRT 11 takes it from the model and ignores them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from graphopt.data.shape_profile import ShapeProfile
from graphopt.model import load

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Precisions:
    """Whether a model computes on quantized values, and whether it holds float16 values."""

    integers: bool = False
    halves: bool = False


@dataclass(frozen=True)
class Setup:
    """What the options follow from.

    Attributes:
        cache: folder for engines and timings; it is the model's own, so that no engine is used for another one.
        shapes: ranges of the free dims, so that one engine serves all of them.
        context: file to write the model to with its engine inside (an EP-context model).
        precisions: what the model holds.
        threads: threads inside one operator.
    """

    cache: Path | None = None
    shapes: ShapeProfile = field(default_factory=ShapeProfile)
    context: Path | None = None
    precisions: Precisions = field(default_factory=Precisions)
    threads: int = 1


@dataclass(frozen=True)
class ProviderSettings:
    """Options of the provider and entries of the session's configuration."""

    provider: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)


def provider_settings(name: str, setup: Setup) -> ProviderSettings:
    """The settings of a provider by graphopt's name; empty for one that needs none."""
    make = _ROWS.get(name)
    if make is None:
        return ProviderSettings()
    context = _context(setup) if name != "cuda" else {}
    return ProviderSettings(dict(make(setup)), context)


def model_cache(folder: Path, model: bytes | Path, shapes: ShapeProfile) -> Path:
    """The folder in ``folder`` that belongs to a model and its shapes: an engine for others is never found there."""
    digest = hashlib.sha256()
    for chunk in _chunks(model):
        digest.update(chunk)
    digest.update("|".join(shapes.texts()).encode())
    return folder / digest.hexdigest()[:16]


def precisions_of(model: bytes | Path) -> Precisions:
    """Look into a model; its weights are not read."""
    graph = load(model).graph
    integers = any(n.op.startswith(("QuantizeLinear", "DequantizeLinear", "QLinear")) for n in graph.walk())
    halves = any(c.dtype == np.float16 for part in graph.graphs() for c in part.initializers)
    return Precisions(integers, halves or any(t.dtype == np.float16 for t in graph.inputs))


def _chunks(model: bytes | Path) -> Iterator[bytes]:
    if isinstance(model, bytes):
        yield model
        return
    for file in sorted(load(model).files() | {model.resolve()}):
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                yield chunk


def _context(setup: Setup) -> dict[str, str]:
    if setup.context is None:
        return {}
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(setup.context),
        "ep.context_embed_mode": "1",
    }


def _tensorrt(setup: Setup) -> Iterator[tuple[str, str]]:
    if setup.cache is not None:
        yield "trt_engine_cache_enable", "1"
        yield "trt_engine_cache_path", str(setup.cache)
        yield "trt_timing_cache_enable", "1"
        yield "trt_timing_cache_path", str(setup.cache)
    if setup.precisions.integers:
        yield "trt_int8_enable", "1"
    if setup.precisions.halves:
        yield "trt_fp16_enable", "1"
    yield from _profile("trt", setup)


def _tensorrt_rtx(setup: Setup) -> Iterator[tuple[str, str]]:
    if setup.cache is not None:
        yield "nv_runtime_cache_path", str(setup.cache)
    yield from _profile("nv", setup)


def _profile(prefix: str, setup: Setup) -> Iterator[tuple[str, str]]:
    for part, text in zip(("min", "opt", "max"), setup.shapes.texts(), strict=True):
        if text:
            yield f"{prefix}_profile_{part}_shapes", text


def _openvino(setup: Setup) -> Iterator[tuple[str, str]]:
    yield "device_type", "CPU"
    yield "num_of_threads", str(setup.threads)
    if setup.cache is not None:
        yield "cache_dir", str(setup.cache)


def _cuda(setup: Setup) -> Iterator[tuple[str, str]]:
    """Float32 stays float32: with TF32 on, products are rounded to 10 bits and comparisons show that."""
    yield "use_tf32", "0"
    yield "cudnn_conv_algo_search", "EXHAUSTIVE"


_ROWS: Mapping[str, Callable[[Setup], Iterator[tuple[str, str]]]] = MappingProxyType(
    {"tensorrt": _tensorrt, "tensorrt-rtx": _tensorrt_rtx, "openvino": _openvino, "cuda": _cuda}
)
