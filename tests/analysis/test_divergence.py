"""Where two models part: the right tensor is named, through renaming, Q/DQ, QOperators and the runtime's fusions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from chain_net import chain, data_for, quantized
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.analysis.divergence import ProfileConfig, tensor_profile
from graphopt.analysis.pairing import pair_tensors
from graphopt.data.interface import read_interface
from graphopt.data.synthetic import SyntheticDataset


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_the_first_tensor_that_differs_is_named(bad):
    one = chain()
    profile = tensor_profile(load(one), load(chain(bad=bad)), data_for(one))
    assert profile.threshold_db == 60
    assert profile.first.tensor == f"tc{bad}"
    assert profile.first.node == f"tconv{bad}"
    assert next(t.tensor for t in profile.tensors if t.diverged) == f"tc{bad}"
    assert all(t.agreement.sqnr_db == np.inf for t in profile.tensors[: 2 * bad])
    assert max(profile.tensors, key=lambda t: t.lost_db).tensor == f"tc{bad}"
    assert profile.samples == 4
    assert len(profile.tensors) == profile.computed == 10


def test_equal_models_do_not_part():
    one = chain()
    profile = tensor_profile(load(one), load(one), data_for(one))
    assert profile.first is None
    assert all(t.lost_db == 0 for t in profile.tensors)


def test_other_names_are_matched_by_structure():
    one, two = chain(), chain(bad=2, prefix="z")
    profile = tensor_profile(load(one), load(two), data_for(one))
    assert [t.test_tensor for t in profile.tensors][:4] == ["zc0", "zr0", "zc1", "zr1"]
    assert profile.first.tensor == "tc2"


@pytest.mark.parametrize("optimized", [False, True])
def test_through_quantization_and_the_runtimes_optimizations(optimized):
    one = chain(width=64)
    for bad in (None, 2):
        profile = tensor_profile(
            load(one), quantized(chain(bad=bad, width=64)), data_for(one), ProfileConfig(optimized=optimized)
        )
        assert profile.threshold_db == 20
        if bad is None:
            assert profile.first is None
            assert len(profile.tensors) >= 5
        else:
            assert profile.first.tensor in ("tc2", "tr2")
        ops = {t.test_op for t in profile.tensors}
        assert ("QLinearConv" in ops) == optimized


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_onnxruntimes_quantized_models(form, optimized, tmp_path):
    """Its defaults drop a Relu in front of a quantizer that cuts off the same, and rename what is quantized."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    rng = np.random.default_rng(1)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": rng.normal(size=(8, 16, 8, 8)).astype(np.float32)}])

        def get_next(self):
            return next(self.left, None)

    one = chain()
    for bad in (None, 3):
        onnx.save(chain(bad=bad), tmp_path / "float.onnx")
        quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Reader(), quant_format=QuantFormat[form])
        config = ProfileConfig(optimized=optimized)
        profile = tensor_profile(load(one), load(tmp_path / "q.onnx"), data_for(one), config)
        assert len(profile.tensors) >= 5
        if bad is None:
            assert profile.first is None
        else:
            assert profile.first.tensor in ("tc3", "tr3")


def test_new_non_finite_values_diverge():
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y) {{ a = Abs(x) b = {} y = Exp(b) }}'
    )
    one, two = (onnx.parser.parse_model(text.format(f)) for f in ("Sqrt(a)", "Log(x)"))
    profile = tensor_profile(load(one), load(two), SyntheticDataset(read_interface(one.SerializeToString()), 4))
    assert profile.first.tensor == "b"
    assert "new NaN or Inf" in profile.first.diverged


def test_pruned_tensors_are_counted_apart():
    one = chain()
    two = chain()
    weights = {w.name: w for w in two.graph.initializer}
    for name, cut in (("tw1", np.s_[:8]), ("tw2", np.s_[:, :8])):
        weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name])[cut].copy(), name))
    profile = tensor_profile(load(one), load(two), data_for(one))
    assert [t.tensor for t in profile.other_extents] == ["tc1", "tr1"]
    assert profile.first.tensor == "tc2"


def test_many_tensors_are_looked_at_in_groups(monkeypatch):
    one = chain()
    whole = tensor_profile(load(one), load(chain(bad=3)), data_for(one))
    monkeypatch.setattr("graphopt.analysis.divergence.AT_ONCE", 3)
    assert tensor_profile(load(one), load(chain(bad=3)), data_for(one)) == whole


def test_like_branches_are_matched_in_order():
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x, float[4,4] u, float[4,4] v) => (float[2,4] y) '
        "{{ {0}a = MatMul(x, u) {0}b = MatMul(x, v) {0}c = Relu({0}b) y = Add({0}a, {0}c) }}"
    )
    one, two = (load(onnx.parser.parse_model(text.format(p))).graph for p in ("p", "q"))
    pairs = pair_tensors(one, two)
    assert [(p.reference.tensor, p.test.tensor) for p in pairs] == [
        ("pa", "qa"),
        ("pb", "qb"),
        ("pc", "qc"),
        ("y", "y"),
    ]
    assert pairs[3].sources == (0, 2)


def test_float16_copies_are_compared():
    one = chain(3)
    two = chain(3)
    two.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_half"], to=TensorProto.FLOAT16))
    two.graph.node[1].input[0] = "x_half"
    for weight in two.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    two.graph.node[-1].output[0] = "y_half"
    two.graph.node.append(helper.make_node("Cast", ["y_half"], ["y"], to=TensorProto.FLOAT))
    profile = tensor_profile(load(one), load(two), data_for(one))
    assert profile.threshold_db == 40
    assert len(profile.tensors) >= 6
    assert profile.first is None
    assert all(50 < t.agreement.sqnr_db < 100 for t in profile.tensors if t.op != "input")


def test_channels_that_were_evened_out_have_not_diverged():
    """One layer gives its channels a factor and the next takes it back: equal up to a factor, and said so."""
    one, two = chain(), chain()
    weights = {w.name: w for w in two.graph.initializer}
    factors = np.geomspace(0.1, 8, 16).astype(np.float32)
    for name, scale in (("tw1", factors[:, None, None, None]), ("tw2", 1 / factors[None, :, None, None])):
        weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) * scale, name))
    profile = tensor_profile(load(one), load(two), data_for(one))
    assert profile.first is None
    assert [t.tensor for t in profile.tensors if t.scaled] == ["tc1", "tr1"]
    assert "0.1 to 8" in profile.tensors[2].scaled
    weights["tw2"].CopyFrom(next(w for w in one.graph.initializer if w.name == "tw2"))
    assert tensor_profile(load(one), load(two), data_for(one)).first.tensor == "tc2"


def test_integers_that_only_move_are_read_on_the_grid_they_came_from():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,8] x) => (float[4,4] y) {{
        a = Relu(x) s = Constant <value = float {{0.02}}> () z = Constant <value = uint8 {{0}}> ()
        p = Constant <value = int64[2] {{4, 4}}> () {} }}"""
    one = "m = Reshape(a, p) y = Transpose(m)"
    two = "q = QuantizeLinear(a, s, z) m = Reshape(q, p) t = Transpose(m) y = DequantizeLinear(t, s, z)"
    models = [load(onnx.parser.parse_model(text.format(body))) for body in (one, two)]
    data = SyntheticDataset(read_interface(models[0].serialize()), 4)
    profile = tensor_profile(*models, data)
    found = {t.tensor: t.agreement.sqnr_db for t in profile.tensors}
    assert set(found) >= {"a", "m", "y"}
    assert min(found.values()) > 30
    assert profile.first is None


def test_equal_branches_in_another_order_are_told_apart_by_their_constants():
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) {'
    one = onnx.parser.parse_model(head + "a = MatMul(x, u) b = MatMul(x, v) c = Relu(b) y = Add(a, c) }")
    two = onnx.parser.parse_model(head + "q = MatMul(x, v) p = MatMul(x, u) r = Relu(q) y = Add(p, r) }")
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(4, 4)).astype(np.float32), n) for n in "uv"]
    for model in (one, two):
        model.graph.initializer.extend(weights)
    profile = tensor_profile(load(one), load(two), SyntheticDataset(read_interface(one.SerializeToString()), 4))
    assert {t.tensor: t.test_tensor for t in profile.tensors} == {"a": "p", "b": "q", "c": "r", "y": "y"}
    assert profile.first is None


def test_empty_tensors():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[0,3,4] x) => (float[0,3,4] y) { a = Relu(x) y = Exp(a) }'
    model = load(onnx.parser.parse_model(text))
    profile = tensor_profile(model, model, SyntheticDataset(read_interface(model.serialize()), 2))
    assert profile.first is None
    assert all(t.agreement.note == "empty output" for t in profile.tensors)


def two_layers(weight, factor=1.0, rows=1):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Softmax", ["m"], ["s"], "softmax"),
        helper.make_node("Mul", ["s", "k"], ["t"], "scale"),
        helper.make_node("Identity", ["t"], ["y"], "end"),
    ]
    known = [numpy_helper.from_array(np.float32(v), n) for n, v in (("w", weight), ("k", factor))]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, c]) for n, c in (("x", 6), ("y", 10))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_factor_at_an_output_is_a_divergence():
    weight = np.random.default_rng(0).standard_normal((6, 10))
    one, two = load(two_layers(weight, rows=40)), load(two_layers(weight, 3.0, 40))
    data = SyntheticDataset(read_interface(one.serialize()), 1, 0)
    assert tensor_profile(one, two, data).first.op == "Mul"


def test_few_values_prove_no_factors():
    """Softmax is positive: with one sample some factor a channel makes any result of any other."""
    random = np.random.default_rng(0)
    one, two = (load(two_layers(random.standard_normal((6, 10)))) for _ in range(2))
    profile = tensor_profile(one, two, SyntheticDataset(read_interface(one.serialize()), 1, 0))
    assert all(row.diverged and not row.scaled for row in profile.tensors)


BODIES = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y, float[2,3] z) {{
    n = Constant <value = int64 {{3}}> ()  t = Constant <value = bool {{1}}> ()
    [loop] y, all = Loop(n, t, x) <body = b (int64 i, bool k, float[2,3] s) => (bool k2, float[2,3] s2, float[2,3] w) {{
        k2 = Identity(k)  [inner] d = {0}(s)  e = Sigmoid(d)
        [choice] f = If(k) <then_branch = p () => (float[2,3] o) {{ q = Neg(e)  o = {1}(q) }},
                            else_branch = r () => (float[2,3] u) {{ u = Abs(e) }}>
        s2 = Add(f, e)  w = Identity(s2) }}>
    z = Relu(y) }}"""


def test_tensors_inside_loops_and_branches_are_compared():
    good, wrong_loop, wrong_if = (
        load(onnx.parser.parse_model(BODIES.format(*ops))) for ops in (("Exp", "Tanh"), ("Abs", "Tanh"), ("Exp", "Sin"))
    )
    data = SyntheticDataset(read_interface(good.serialize()), 2)
    for optimized in (False, True):
        config = ProfileConfig(optimized=optimized)
        same = tensor_profile(good, good, data, config)
        assert same.first is None
        names = {t.tensor for t in same.tensors}
        assert "e in loop.body" in names
        assert "z" in names
        loop = tensor_profile(good, wrong_loop, data, config).first
        assert (loop.tensor, loop.node, loop.op, loop.test_op) == ("d in loop.body", "inner", "Exp", "Abs")
        branch = tensor_profile(good, wrong_if, data, config).first
        assert branch.tensor == "o in choice.then_branch"
    assert "q in choice.then_branch" in {t.tensor for t in tensor_profile(good, good, data).tensors}
    assert good.graph.nodes[2].outputs[-1].name == "all"


def test_kept_channels_of_pruned_tensors_are_compared():
    one, two = chain(), chain()
    weights = {w.name: w for w in two.graph.initializer}
    kept = np.array([0, 3, 5, 9, 11, 15])
    for name, axis in (("tw1", 0), ("tw2", 1)):
        cut = np.take(numpy_helper.to_array(weights[name]), kept, axis)
        weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(cut), name))
    config = ProfileConfig(kept={"tc1": {1: kept}, "tr1": {1: kept}})
    profile = tensor_profile(load(one), load(two), data_for(one), config)
    assert not profile.other_extents
    assert profile.first.tensor == "tc2"
    found = {t.tensor: t.agreement.sqnr_db for t in profile.tensors}
    assert found["tc1"] == found["tr1"] == np.inf
