"""Provider options are data: what a model and a run need, in each provider's own words. No device is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chain_net import chain

from graphopt.data.interface import read_interface
from graphopt.data.shape_profile import ShapeProfile, profile_of_feeds
from graphopt.errors import ProviderError
from graphopt.runtime import session as session_module
from graphopt.runtime.provider_options import (
    Precisions,
    Setup,
    model_cache,
    precisions_of,
    provider_settings,
)
from graphopt.runtime.providers import PROVIDERS
from graphopt.runtime.session import Session, SessionConfig

SHAPES = ShapeProfile({"x": [1, 3, 8, 8]}, {"x": [4, 3, 8, 8]}, {"x": [16, 3, 8, 8]})
FULL = Setup(Path("cache"), SHAPES, Path("engine.onnx"), Precisions(True, True), 2)


def test_tensorrt():
    found = provider_settings("tensorrt", FULL)
    assert found.provider == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "cache",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "cache",
        "trt_int8_enable": "1",
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "x:1x3x8x8",
        "trt_profile_opt_shapes": "x:4x3x8x8",
        "trt_profile_max_shapes": "x:16x3x8x8",
    }
    assert found.session["ep.context_file_path"] == "engine.onnx"
    assert provider_settings("tensorrt", Setup()).provider == {}


def test_the_others():
    rtx = provider_settings("tensorrt-rtx", FULL)
    assert rtx.provider["nv_profile_max_shapes"] == "x:16x3x8x8"
    assert rtx.provider["nv_runtime_cache_path"] == "cache"
    assert rtx.session["ep.context_enable"] == "1"
    assert provider_settings("openvino", FULL).provider == {
        "device_type": "CPU",
        "num_of_threads": "2",
        "cache_dir": "cache",
    }
    assert provider_settings("cuda", FULL).provider["use_tf32"] == "0"
    assert provider_settings("cuda", FULL).session == {}
    assert provider_settings("cpu", FULL).provider == {}


@pytest.mark.parametrize("name", PROVIDERS)
def test_options_are_text(name):
    found = provider_settings(name, FULL)
    assert all(isinstance(v, str) for v in (*found.provider.values(), *found.session.values()))


def test_flags_follow_from_the_model(tmp_path):
    from qdq_net import Flavour, qdq_net

    assert precisions_of(chain().SerializeToString()) == Precisions()
    assert precisions_of(qdq_net(Flavour()).SerializeToString()).integers


def test_every_model_and_shape_has_its_own_cache(tmp_path):
    one, two = chain().SerializeToString(), chain(bad=1).SerializeToString()
    other = replace(SHAPES, high={"x": [32, 3, 8, 8]})
    folders = {model_cache(tmp_path, m, s) for m in (one, two) for s in (SHAPES, other)}
    assert len(folders) == 4
    assert model_cache(tmp_path, one, SHAPES) in folders


def test_shapes_cover_all_runs():
    interface = read_interface(chain().SerializeToString())
    runs = [{"x": np.zeros((n, 16, 8, 8), np.float32)} for n in (4, 1, 32)]
    assert profile_of_feeds(interface, runs).texts() == ("x:1x16x8x8", "x:4x16x8x8", "x:32x16x8x8")


def test_a_session_hands_them_to_onnxruntime(monkeypatch, tmp_path):
    """What ``InferenceSession`` is called with on a machine where TensorRT would run; the user's options win."""
    import onnxruntime

    seen = {}

    class Stop(Exception):
        pass

    def record(model, options, providers, enable_fallback):
        seen.update(providers=providers, fallback=enable_fallback)
        raise Stop

    monkeypatch.setattr(session_module, "require", lambda name: PROVIDERS[name])
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    options = {"trt_builder_optimization_level": "5", "trt_int8_enable": "0"}
    config = SessionConfig("tensorrt", provider_options=options, cache_dir=tmp_path, shapes=SHAPES)
    with pytest.raises(Stop):
        Session(chain().SerializeToString(), config)
    (name, given), last = seen["providers"]
    assert (name, last, seen["fallback"]) == ("TensorrtExecutionProvider", "CPUExecutionProvider", 0)
    assert given["trt_profile_opt_shapes"] == "x:4x3x8x8"
    assert given["trt_builder_optimization_level"] == "5"
    assert given["trt_int8_enable"] == "0"
    assert Path(given["trt_engine_cache_path"]).parent == tmp_path
    assert Path(given["trt_engine_cache_path"]).is_dir()


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch):
    """Even if a provider passed its probe: a session that does not run on it is an error, never a quiet CPU run."""
    monkeypatch.setattr(session_module, "require", lambda name: PROVIDERS[name])
    real = session_module._provider_list
    monkeypatch.setattr(session_module, "_provider_list", lambda *a: real(*a)[1:])
    with pytest.raises(
        ProviderError, match="asked for CUDAExecutionProvider, the session runs on CPUExecutionProvider"
    ):
        Session(chain().SerializeToString(), SessionConfig("cuda"))
