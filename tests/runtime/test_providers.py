from __future__ import annotations

import sys

import pytest

from graphopt.errors import ProviderError, UsageError
from graphopt.runtime import providers
from graphopt.runtime.probe import probe
from graphopt.runtime.providers import PROVIDERS, Provider, availability, provider, require
from graphopt.runtime.session import Session, SessionConfig


@pytest.fixture(autouse=True)
def _fresh():
    availability.cache_clear()
    yield
    availability.cache_clear()


def test_cpu_runs_here() -> None:
    state = availability("cpu")
    assert state.usable
    assert "ran MatMul and Relu on CPUExecutionProvider" in state.evidence
    assert require("CPU").name == "cpu"


def test_unknown_provider_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        provider("tensort")


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "cpu"])
def test_a_provider_runs_or_says_why_not(name: str, relu) -> None:
    """Whatever is installed: usable means that a session on it works; otherwise exit 6 with a reason."""
    state = availability(name)
    if state.usable:
        assert PROVIDERS[name].execution_provider in Session(relu, SessionConfig(provider=name)).providers
        return
    assert len(state.reason) > 20
    with pytest.raises(ProviderError) as caught:
        Session(relu, SessionConfig(provider=name))
    assert caught.value.exit_code == 6
    assert state.reason in str(caught.value)


def test_a_provider_that_the_package_lacks() -> None:
    answer = probe(Provider("x", "NoSuchExecutionProvider", "some-package"))
    assert not answer["usable"]
    assert "built without NoSuchExecutionProvider; install some-package" in answer["reason"]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_being_listed_is_no_evidence(monkeypatch) -> None:
    """A package that lists a provider which then does not load is found out by running."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    if availability("cuda").usable:
        pytest.skip("this machine has CUDA")
    answer = probe(Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu"))
    assert not answer["usable"]
    assert "CPU" in answer["reason"]


def test_a_plugin_without_its_library(tmp_path, monkeypatch) -> None:
    (tmp_path / "fake_ep_a.py").write_text(
        f"def get_library_path(): return {str(tmp_path / 'none.so')!r}\ndef get_ep_name(): return 'FakeEP'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    answer = probe(Provider("fake", "FakeEP", "fake", ("fake_ep_a",)))
    assert "has lost its library" in answer["reason"]


def test_a_plugin_that_does_not_load(tmp_path, monkeypatch) -> None:
    (tmp_path / "bad.so").write_bytes(b"no library")
    (tmp_path / "fake_ep_b.py").write_text(
        f"def get_library_path(): return {str(tmp_path / 'bad.so')!r}\ndef get_ep_name(): return 'FakeEP'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    answer = probe(Provider("fake", "FakeEP", "fake", ("fake_ep_b",)))
    assert not answer["usable"]
    assert "fake_ep_b does not load" in answer["reason"]


def test_a_probe_that_dies_or_hangs(tmp_path, monkeypatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'Segmentation fault' >&2\nexit 139\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert "ended with code 139 (Segmentation fault)" in availability("cuda").reason
    availability.cache_clear()
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(providers, "PROBE_SECONDS", 0.3)
    assert "no answer" in availability("cuda").reason


def test_the_missing_library_is_read_from_the_log() -> None:
    log = (
        "[E:onnxruntime:Default] FAIL : Failed to load library /a/b/libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.13: cannot open shared object file: No such file or directory\n\x1b[m"
    )
    reason = providers._explain("nodes are assigned to CPU, but fallback to CPU EP has been disabled", log)
    assert reason == (
        "libonnxruntime_providers_cuda.so does not load: libcublasLt.so.13: cannot open shared object file: "
        "No such file or directory"
    )
    assert providers._explain("why", "") == "why"
