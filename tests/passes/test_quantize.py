"""The ``quantize`` pass through the manager: composite, remarks, options, place in a pipeline."""

import numpy as np
import pytest

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import UsageError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

BATCHNORM = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[1, 16, 14, 14] x) => (float[1, 16, 14, 14] y)
<float[16] s, float[16] b, float[16] m, float[16] v, float[16, 16, 3, 3] w1, float[16, 16, 3, 3] w2> {
    [conv1] c = Conv <pads = [1, 1, 1, 1]> (x, w1)
    [norm] n = BatchNormalization (c, s, b, m, v)
    [relu] r = Relu (n)
    [conv2] y = Conv <pads = [1, 1, 1, 1]> (r, w2)
}
"""


def filled(parse):
    model = parse(BATCHNORM)
    rng = np.random.default_rng(0)
    for constant in model.graph.initializers:
        model.graph.set_weight(constant, (np.abs(rng.standard_normal(constant.shape)) * 0.2).astype(np.float32))
    return load(model.to_proto())


def quantized(model, text="quantize", samples=8, **settings):
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 16, 14, 14)).astype(np.float32)} for _ in range(samples)]
    data = open_data(feeds, read_interface(model.serialize()))
    registry = Registry()
    manager = PassManager(registry, Settings(data=data, **settings))
    return manager.run(model, Pipeline.parse(text, registry))


def test_a_raw_export_is_cleaned_and_quantized(parse):
    run = quantized(filled(parse))
    ops = [n.op for n in run.model.graph.nodes]
    assert "BatchNormalization" not in ops
    assert run.passes[0].statistics["integer kernels"] == 2
    assert {r.message for r in run.passes[0].remarks if r.kind == "did"} >= {"runs as QLinearConv"}


def test_remarks_say_why_a_layer_stays_in_float(parse):
    run = quantized(filled(parse), "quantize:exclude=conv2")
    skipped = {r.node: r.message for r in run.passes[0].remarks if r.kind == "skipped"}
    assert skipped["conv2"] == "left in float: excluded by the options"


def test_the_profile_that_decided_is_named(parse):
    run = quantized(filled(parse))
    assert any("latency profile" in r.message for r in run.passes[0].remarks)


def test_float_rewrites_after_it_are_refused(parse):
    with pytest.raises(UsageError, match="move it before quantize"):
        quantized(filled(parse), "quantize,clip:below=0.1")


def test_types_that_the_target_does_not_take(parse):
    with pytest.raises(UsageError, match="it takes s8s8"):
        quantized(filled(parse), "quantize:types=u8s8", target="tensorrt")


def test_options_go_through_to_the_inner_pass(parse):
    run = quantized(filled(parse), "quantize:method=minmax:fidelity=0")
    assert run.passes[0].statistics["ranges by minmax"] >= 2


def test_without_data_it_says_so(parse):
    registry = Registry()
    with pytest.raises(UsageError, match="needs calibration data"):
        PassManager(registry, Settings()).run(filled(parse), Pipeline.parse("quantize", registry))


def test_it_is_deterministic(parse):
    first, second = (quantized(filled(parse)).model.serialize() for _ in range(2))
    assert first == second
