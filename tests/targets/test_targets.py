"""One test for each rule that a target declares, and for profiles and the registry."""

import json
from importlib.metadata import EntryPoint

import pytest

from graphopt.errors import UsageError
from graphopt.targets import get_target, registry, target_names
from graphopt.targets.base import FloatRule, Target, format_types, parse_types
from graphopt.targets.profile import interpolate, load_profile


def test_all_targets_are_found():
    assert target_names()[:4] == ["ort-cpu", "ort-cuda", "tensorrt", "openvino"]
    assert all(get_target(n).name == n for n in target_names()[:4])


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        get_target("tensorRT")


def test_an_entry_point_adds_a_target(monkeypatch):
    mine = Target(**{**vars(get_target("ort-cpu")), "name": "mine"})
    entry = EntryPoint("mine", "nowhere:mine", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: mine)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert get_target("mine") is mine


def test_an_entry_point_that_is_no_target_is_refused(monkeypatch):
    monkeypatch.setattr(EntryPoint, "load", lambda self: object())
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("x", "a:b", group)])
    with pytest.raises(UsageError, match="gives no Target"):
        get_target("x")


@pytest.mark.parametrize(
    ("name", "activation", "symmetric"),
    [("ort-cpu", "uint8", False), ("openvino", "uint8", False), ("tensorrt", "int8", True)],
)
def test_activation_type(name, activation, symmetric):
    grid = get_target(name).activation
    assert (grid.type, grid.symmetric) == (activation, symmetric)


@pytest.mark.parametrize("name", ["ort-cpu", "openvino", "tensorrt"])
def test_weights_are_symmetric_int8_per_channel(name):
    grid = get_target(name).weight
    assert (grid.type, grid.symmetric, grid.per_channel) == ("int8", True, True)


@pytest.mark.parametrize("name", ["ort-cpu", "openvino", "tensorrt", "ort-cuda"])
def test_scales_have_rank_0(name):
    assert get_target(name).scale_rank == 0


def test_bias_is_int32_on_ort_cpu_only():
    assert get_target("ort-cpu").bias == "int32"
    assert get_target("tensorrt").bias == "float32"
    assert get_target("openvino").bias == "float32"


@pytest.mark.parametrize("op", ["Conv", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"])
def test_ort_cpu_kernels_that_need_a_q_behind_them(op):
    assert get_target("ort-cpu").rule(op).output == "required"


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_ort_cpu_kernels_that_can_give_floats(op):
    assert get_target("ort-cpu").rule(op).output == "optional"


@pytest.mark.parametrize(
    "op", ["ConvTranspose", "HardSwish", "Gelu", "LayerNormalization", "Tanh", "Clip", "Sub", "Pad"]
)
def test_ort_cpu_has_no_kernel_for(op):
    assert get_target("ort-cpu").rule(op) is None


@pytest.mark.parametrize("op", ["MaxPool", "Reshape", "Transpose", "Concat", "Resize", "Slice", "Gather", "Split"])
def test_operators_that_share_a_grid(op):
    assert get_target("ort-cpu").rule(op).shares_grid


def test_channel_multiples():
    target = get_target("ort-cpu")
    assert target.alignment("float32") == 16
    assert target.alignment("int8") == 4
    assert target.alignment("int8", before_depthwise=True) == 16
    assert target.alignment("bfloat16") == 1


def test_tensorrt_leaves_narrow_layers_in_float():
    rules = get_target("tensorrt").keep_float
    assert FloatRule("Conv", "narrow", 16, rules[1].why) in rules


def test_types_are_checked():
    assert parse_types("u8s4") == ("uint8", "int4")
    assert format_types(("uint8", "int4")) == "u8s4"
    with pytest.raises(UsageError, match="form u8s8"):
        parse_types("i8i8")
    with pytest.raises(UsageError, match="it takes s8s8"):
        get_target("tensorrt").grids("u8s8")


def test_the_shipped_profile_says_what_was_measured():
    profile = load_profile("ort-cpu.json")
    assert profile.vnni
    assert len(profile.digest) == 16
    macs = 64 * 64 * 9 * 28 * 28
    assert profile.macs_us("conv3x3", "int8", 64, macs) < 0.5 * profile.macs_us("conv3x3", "float32", 64, macs)
    assert profile.macs_us("depthwise", "int8", 32, 1e6) > profile.macs_us("depthwise", "float32", 32, 1e6)
    assert profile.elements_us("AveragePool", "int8", 1e5) > 5 * profile.elements_us("AveragePool", "float32", 1e5)


def test_a_profile_is_identified_by_its_content(tmp_path):
    data = {"rates": {}, "per_element": {}, "node_us": {}, "device": "x", "runtime": "y", "vnni": False}
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(data))
    b.write_text(json.dumps(data, indent=4, sort_keys=True))
    assert load_profile(a).digest == load_profile(b).digest
    b.write_text(json.dumps({**data, "device": "z"}))
    assert load_profile(a).digest != load_profile(b).digest


def test_a_file_that_is_no_profile_is_refused(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(UsageError, match="is not a latency profile"):
        load_profile(bad)
    with pytest.raises(UsageError, match="there is no latency profile"):
        load_profile("nowhere.json")


def test_interpolation_is_exact_at_points_and_flat_outside():
    curve = [(16, 100.0), (64, 400.0)]
    assert interpolate(curve, 16) == 100.0
    assert interpolate(curve, 32) == pytest.approx(200.0)
    assert interpolate(curve, 4) == 100.0
    assert interpolate(curve, 1000) == 400.0
