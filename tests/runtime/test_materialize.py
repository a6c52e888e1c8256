"""Sessions that read weights where they lie."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt import load
from graphopt.analysis.statistics.exposure import session_of
from graphopt.runtime import materialize

WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def model(kind=np.float32):
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,64] x) => (float[N,64] y) { c = Cast <to = 1> (w)  m = MatMul(x, c)  y = Relu(m) }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT.astype(kind), "w"))
    return load(proto)


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(materialize, "INLINE_BYTES", 1)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_the_same_values_without_a_copy(large, kind):
    found = materialize.shared_source(model(kind))
    assert found is not None
    assert len(found[0]) < WEIGHT.astype(kind).nbytes
    feeds = {"x": np.eye(64, dtype=np.float32)}
    with session_of(model(kind), 1) as session:
        got = session.run(feeds)["y"]
    np.testing.assert_allclose(got, np.maximum(WEIGHT.astype(kind).astype(np.float32), 0), rtol=1e-6)


def test_small_models_and_types_that_numpy_lacks_go_the_old_way(large, monkeypatch):
    import ml_dtypes

    assert materialize.shared_source(model(ml_dtypes.bfloat16)) is None
    monkeypatch.setattr(materialize, "INLINE_BYTES", 1 << 29)
    assert materialize.shared_source(model()) is None
