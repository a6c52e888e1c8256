"""Held-back samples: disjoint from the fitted ones, and judged in front of a Softmax."""

import numpy as np
import onnx.parser
import pytest

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.transforms.quantize.trial import HELD_BACK_AT_MOST, Judge, Verdict, hold_back


def model(factor="1", shift="0", tail="Softmax"):
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,4] x) => (float[N,4] y) <float f = {{{factor}}}, float s = {{{shift}}}>
        {{ m = Mul(x, f)  logits = Add(m, s)  y = {tail}(logits) }}"""
    )


def data(proto, count):
    rows = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    return open_data({"x": rows}, read_interface(proto.SerializeToString()))


def rows(dataset):
    return {tuple(r) for batch in dataset.iter_batches() for r in batch.feeds["x"].tolist()}


@pytest.mark.parametrize(("count", "held"), [(2, 1), (50, 10), (1000, HELD_BACK_AT_MOST)])
def test_the_parts_share_no_sample(count, held):
    parts = hold_back(data(model(), count))
    assert len(parts.judge) == held
    assert not rows(parts.fit) & rows(parts.judge)
    assert rows(parts.few) <= rows(parts.fit)
    seen = [*rows(parts.few), *(r for part in parts.rest for r in rows(part))]
    assert len(seen) == count == len(set(seen))


def test_a_single_sample_serves_as_both():
    parts = hold_back(data(model(), 1))
    assert rows(parts.fit) == rows(parts.judge)


def test_noise_is_measured_at_the_output_and_before_softmax():
    judge = Judge(load(model()), data(model(), 8))
    worse = judge.verdict(load(model(factor="1.1")))
    assert worse.inner == pytest.approx(0.01, rel=0.5)
    assert 0 < worse.outputs != worse.inner


def test_a_shift_of_all_logits_is_no_noise():
    judge = Judge(load(model()), data(model(), 8))
    assert judge.verdict(load(model(shift="3"))).inner == pytest.approx(0, abs=1e-10)
    plain = Judge(load(model(tail="Relu")), data(model(), 8))
    assert plain.verdict(load(model(tail="Relu", shift="3"))).inner > 1


def test_the_same_model_has_no_noise():
    judge = Judge(load(model()), data(model(), 8))
    same = judge.verdict(load(model()))
    assert same == Verdict(0.0, 0.0)
    assert same.worst_db == float("inf")


def test_infinities_count_where_they_differ_and_only_there():
    def shifted(by):
        proto = model(tail="Neg")
        proto.graph.initializer[1].ClearField("float_data")
        proto.graph.initializer[1].raw_data = np.array(by, np.float32).tobytes()
        proto.graph.initializer[1].dims[:] = [4]
        return proto

    first = shifted([0, -np.inf, 0, 0])
    judge = Judge(load(first), data(first, 8))
    assert judge.verdict(load(first)) == Verdict(0.0, 0.0)
    near = judge.verdict(load(shifted([0.01, -np.inf, 0, 0])))
    assert 0 < near.outputs < 1e-3
    assert judge.verdict(load(shifted([0, 0, 0, 0]))).outputs == float("inf")


def test_decisions_count_where_the_output_is_a_softmax():
    judge = Judge(load(model()), data(model(), 64))
    worse = judge.verdict(load(model(factor="-1")))
    assert worse.changed > 0.1
    assert worse.good_enough(-10, False)
    assert not worse.good_enough(-10, True)
    plain = Judge(load(model(tail="Relu")), data(model(), 64))
    assert plain.verdict(load(model(factor="-1", tail="Relu"))).changed == 0


@pytest.mark.parametrize(("opset", "axis"), [(17, "<axis=1>"), (11, "")])
def test_classes_lie_on_the_axis_of_the_softmax(opset, axis):
    def classifier(logits):
        return onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": {opset}]>
            g (float[N,3,1] x) => (float[N,3,1] y) <float[3,1] f = {{{logits}}}>
            {{ logits = Add(x, f)  y = Softmax{axis}(logits) }}"""
        )

    kept = classifier("1, 0, -5")
    zeros = open_data({"x": np.zeros((40, 3, 1), np.float32)}, read_interface(kept.SerializeToString()))
    judge = Judge(load(kept), zeros)
    assert judge.verdict(load(kept)).changed == 0
    assert judge.verdict(load(classifier("1, 2, -5"))).changed > 0.3
    assert judge.verdict(load(classifier("4, 3, -2"))).inner == pytest.approx(0, abs=1e-10)
