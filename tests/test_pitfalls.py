"""The 39 ways in which a plain graphsurgeon import and export loses or corrupts a model; here it is kept or refused.

Numbers follow the list in ``docs/pitfalls.md``.
"""

from __future__ import annotations

import contextlib
import io

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from texts import BRANCH, CHAIN, HEADER

from graphopt import load
from graphopt.errors import InvalidModelError, UnsupportedError, UsageError
from graphopt.verifier import verify


def value(name, kind=TensorProto.FLOAT, shape=(4,)):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs=None, outputs=None, initializers=(), opset=17, ir_version=8, **kwargs):
    graph = helper.make_graph(
        nodes,
        "g",
        inputs if inputs is not None else [value("x")],
        outputs or [value("y")],
        list(initializers),
        **kwargs,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def relu():
    return model_of([helper.make_node("Relu", ["x"], ["y"], name="r")])


def round_trip(proto):
    return load(proto).to_proto()


def kept(proto):
    before = proto.SerializeToString(deterministic=True)
    assert round_trip(proto).SerializeToString(deterministic=True) == before
    assert proto.SerializeToString(deterministic=True) == before


def test_01_model_fields():
    proto = relu()
    proto.doc_string, proto.domain, proto.model_version = "doc", "com.me", 7
    proto.producer_name, proto.producer_version = "p", "1"
    proto.metadata_props.add(key="k", value="v")
    kept(proto)


def test_02_node_fields():
    proto = relu()
    proto.graph.node[0].doc_string = "why"
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    kept(proto)


def test_03_graph_fields():
    proto = relu()
    proto.graph.doc_string = "doc"
    proto.graph.metadata_props.add(key="k", value="v")
    note = proto.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    kept(proto)


def test_04_interface_fields():
    proto = relu()
    for info in (proto.graph.input[0], proto.graph.output[0]):
        info.doc_string = "doc"
        info.metadata_props.add(key="k", value="v")
        info.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
        info.type.denotation = "TENSOR"
    kept(proto)


def test_05_training_info():
    proto = relu()
    proto.training_info.add().algorithm.name = "sgd"
    kept(proto)


def test_06_unused_initializers():
    proto = relu()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    kept(proto)


def test_07_functions():
    body = helper.make_function("f", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [])
    body.opset_import.append(helper.make_opsetid("", 17))
    body.overload = "o"
    body.metadata_props.add(key="k", value="v")
    proto = model_of([helper.make_node("Twice", ["x"], ["y"], domain="f", overload="o")], ir_version=10)
    proto.opset_import.append(helper.make_opsetid("f", 1))
    proto.functions.append(body)
    kept(proto)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_08_09_inputs_with_default_values(ir_version):
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    proto = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [value("x"), value("w")], None, [weight], 9, ir_version
    )
    onnx.checker.check_model(round_trip(proto))
    kept(proto)


def test_10_attributes_without_a_python_value():
    kind = helper.make_attribute("type", helper.make_tensor_type_proto(TensorProto.FLOAT, [4]))
    node = helper.make_node("Optional", [], ["o"])
    node.attribute.append(kind)
    out = helper.make_value_info("o", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [4])))
    kept(model_of([node], [], [out]))


def test_10_lists_of_graphs_are_refused():
    node = helper.make_node("Many", ["x"], ["y"], domain="me")
    node.attribute.add(name="gs", type=AttributeProto.GRAPHS).graphs.add(name="a")
    with pytest.raises(UnsupportedError, match="attribute 'gs' is a list of graphs"):
        load(model_of([node]))


def test_11_clone_keeps_names_and_types():
    seq = helper.make_value_info("s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [4])))
    proto = model_of([helper.make_node("SequenceConstruct", ["x"], ["s"])], None, [seq])
    proto.producer_name = "p"
    model = load(proto)
    assert model.clone().serialize() == model.serialize()


@pytest.mark.parametrize("kind", [AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS])
def test_12_empty_list_attributes(kind):
    proto = model_of([helper.make_node("Mine", ["x"], ["y"], domain="me")])
    proto.opset_import.append(helper.make_opsetid("me", 1))
    proto.graph.node[0].attribute.add(name="a", type=kind)
    kept(proto)


def test_13_strings_that_are_not_utf8():
    proto = model_of([helper.make_node("Mine", ["x"], ["y"], domain="me")])
    proto.opset_import.append(helper.make_opsetid("me", 1))
    proto.graph.node[0].attribute.add(name="a", type=AttributeProto.STRING, s=b"\xff\xfe")
    kept(proto)


def test_14_optional_and_map_inputs():
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [4])
    optional = helper.make_value_info("x", helper.make_optional_type_proto(tensor))
    kept(model_of([helper.make_node("OptionalGetElement", ["x"], ["y"])], [optional]))
    mapped = onnx.ValueInfoProto(name="x")
    mapped.type.map_type.key_type = TensorProto.STRING
    mapped.type.map_type.value_type.CopyFrom(tensor)
    proto = model_of([helper.make_node("Mine", ["x"], ["y"], domain="me")], [mapped])
    proto.opset_import.append(helper.make_opsetid("me", 1))
    kept(proto)


def test_15_numpy_bool_attribute():
    model = load(model_of([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)]))
    model.graph.nodes[0].attrs["keepdims"] = np.bool_(False)
    assert model.to_proto().graph.node[0].attribute[0].i == 0


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn", "int2", "uint2"])
def test_16_sub_byte_constants_survive_replacement(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype))
    weight = numpy_helper.from_array(np.array([0, 1, 1, 0, 1], kind), "w")
    proto = model_of(
        [helper.make_node("Identity", ["w"], ["y"])], [], [value("y", weight.data_type, (5,))], [weight], 25
    )
    kept(proto)
    model = load(proto)
    constant = model.graph.initializers[0]
    model.graph.set_weight(constant, np.array(constant.values))
    assert numpy_helper.to_array(model.to_proto().graph.initializer[0]).tolist() == [0, 1, 1, 0, 1]


def test_17_string_constants_survive_replacement():
    weight = numpy_helper.from_array(np.array(["a", "bc"], object), "w")
    proto = model_of([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", TensorProto.STRING, (2,))], [weight])
    kept(proto)
    model = load(proto)
    model.graph.set_weight(model.graph.initializers[0], np.array(["z", "y"], object))
    assert list(model.to_proto().graph.initializer[0].string_data) == [b"z", b"y"]


@pytest.mark.parametrize("order", [lambda n: n[::-1], lambda n: n[1::2] + n[::2]])
def test_18_any_node_order_is_sorted(order):
    nodes = [helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(3000)]
    model = load(model_of(order(nodes), None, [value("t3000")]))
    verify(model.graph)
    assert [n.outputs[0].name for n in model.graph.nodes] == [f"t{i + 1}" for i in range(3000)]


def test_19_float8_types_survive_being_read():
    array = np.array([1, 2, 3, 4], ml_dtypes.float8_e4m3fnuz)
    weight = numpy_helper.from_array(array, "w")
    proto = model_of([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", weight.data_type)], [weight], 19)
    model = load(proto)
    model.graph.set_weight(model.graph.initializers[0], np.array(model.graph.initializers[0].values))
    assert model.to_proto().graph.initializer[0].data_type == TensorProto.FLOAT8E4M3FNUZ


def test_20_opset(parse):
    model = parse(CHAIN)
    model.graph.opset = 21
    assert model.to_proto().opset_import[0].version == 21


def test_21_the_callers_proto_is_not_touched():
    proto = onnx.parser.parse_model(CHAIN)
    before = proto.SerializeToString()
    model = load(proto)
    model.graph.rename(model.graph.initializers[0], "renamed")
    model.graph.add_node("Mine", [model.graph.inputs[0]], domain="other")
    model.serialize()
    assert proto.SerializeToString() == before


def test_22_two_constants_from_one_lazy_weight(parse):
    model = parse(CHAIN)
    graph = model.graph
    twin = graph.new_constant("w", graph.initializers[0].values)
    graph.nodes[0].inputs[0] = twin
    names = {t.name for t in model.to_proto().graph.initializer}
    assert names == {"w", twin.name}
    assert len(names) == 2


def test_23_two_values_with_one_name_are_refused():
    weights = [numpy_helper.from_array(np.ones(4, np.float32), "w")] * 2
    with pytest.raises(InvalidModelError, match="two values are called 'w'"):
        load(model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=weights))
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    with pytest.raises(InvalidModelError, match="two values are called 'y'"):
        load(model_of(nodes))


def test_24_equality_is_identity(parse):
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="n"), helper.make_node("Relu", ["x"], ["b"], name="n")]
    graph = load(model_of([*nodes, helper.make_node("Add", ["a", "b"], ["y"])])).graph
    first, second, _ = graph.nodes
    assert first != second
    assert len({first, second, first.outputs[0], second.outputs[0]}) == 4
    assert first.outputs[0] != None  # noqa: E711
    second.inputs.clear()
    assert list(graph.inputs[0].outputs) == [first]
    graph.nodes.remove(second)
    assert graph.nodes[0] is first


def test_25_26_27_28_folding_of_graphsurgeon_is_refused(parse):
    with pytest.raises(UsageError, match="run the cleanup pass"):
        parse(CHAIN).graph.fold_constants()


@pytest.mark.parametrize("linear", [True, False])
def test_29_sparse_initializers(linear):
    values = numpy_helper.from_array(np.array([5, 6], np.float32), "w")
    indices = np.array([1, 5]) if linear else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "w_idx"), [2, 3])
    proto = model_of(
        [helper.make_node("Identity", ["w"], ["y"])], [], [value("y", shape=(2, 3))], sparse_initializer=[sparse]
    )
    kept(proto)
    assert load(proto).graph.initializers[0].values.tolist() == [[0, 5, 0], [0, 0, 6]]


def test_30_int_for_a_float_attribute(parse):
    model = parse(CHAIN)
    graph = model.graph
    node = graph.add_node("LeakyRelu", [graph.outputs[0]], attrs={"alpha": 1})
    graph.replace_uses(graph.outputs[0], node.outputs[0])
    node.inputs[0] = graph.nodes[1].outputs[0]
    attribute = next(n for n in model.to_proto().graph.node if n.op_type == "LeakyRelu").attribute[0]
    assert attribute.type == AttributeProto.FLOAT
    assert attribute.f == 1.0


def test_30_wrong_attribute_value_names_node_and_attribute(parse):
    model = parse(CHAIN)
    model.graph.add_node("LeakyRelu", [model.graph.inputs[0]], attrs={"alpha": "much"}, name="leaky")
    with pytest.raises(UsageError, match=r"'leaky'.*'alpha'.*must be of type FLOAT"):
        model.serialize()


def test_31_middle_outputs_keep_their_place(parse):
    graph = parse(
        HEADER
        + """g (float[1,2,3] x, float[1,16,3] w, float[1,16,4] r) => (float[1,2,4] c) {
        y, h, c = LSTM <hidden_size = 4> (x, w, r) z = Relu(y) }"""
    ).graph
    graph.remove_dead()
    assert [t.name for t in graph.nodes[0].outputs] == ["y", "h", "c"]


def test_32_dangling_inputs_are_refused():
    with pytest.raises(InvalidModelError, match=r"node 'r' \(Relu\) reads 'ghost', which nothing produces"):
        load(model_of([helper.make_node("Relu", ["ghost"], ["y"], name="r")]))


def test_32_cycles_are_refused():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="n1"), helper.make_node("Relu", ["a"], ["b"], name="n2")]
    with pytest.raises(InvalidModelError, match="cycle through 'n1', 'n2'"):
        load(model_of([*nodes, helper.make_node("Neg", ["b"], ["y"])]))


def test_33_external_data_is_found_beside_its_model_and_saved_whole(tmp_path):
    weight = numpy_helper.from_array(np.arange(1024, dtype=np.float32), "w")
    proto = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", shape=(1024,))], None, [weight])
    (tmp_path / "a").mkdir()
    onnx.save(proto, tmp_path / "a" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(tmp_path / "a" / "m.onnx")
    model.save(tmp_path / "copy.onnx")
    again = onnx.load(tmp_path / "copy.onnx")
    assert numpy_helper.to_array(again.graph.initializer[0])[-1] == 1023


def test_34_value_that_is_output_and_consumed(parse):
    graph = parse(HEADER + "g (float[4] x) => (float[4] a, float[4] y) { a = Relu(x) y = Neg(a) }").graph
    graph.replace_uses(graph.outputs[0], graph.inputs[0])
    graph.remove_dead()
    graph.sort()
    verify(graph)
    assert {t.name for t in graph.outputs} == {"a", "y"}
    assert sorted(n.op for n in graph.nodes) == ["Identity", "Neg"]


def test_35_variables_do_not_share_shapes(parse):
    graph = parse(CHAIN).graph
    a, b = graph.new_variable("a"), graph.new_variable("b")
    assert a.shape is None
    assert b.shape is None


def test_36_misspelt_attributes_fail_the_checker(parse):
    model = parse(CHAIN)
    model.graph.nodes[1].attrs["aplha"] = 1.0
    with pytest.raises(onnx.checker.ValidationError, match="aplha"):
        onnx.checker.check_model(model.stub_proto())


def test_37_outer_weight_used_in_branches_is_written_once():
    branch = (
        HEADER
        + """g (float[4] x, bool c) => (float[4] y) <float[4] w = {1,2,3,4}> {
      y = If(c) <then_branch = t () => (float[4] p) { p = Add(x, w) },
                 else_branch = e () => (float[4] q) { q = Mul(x, w) }> }"""
    )
    proto = onnx.parser.parse_model(branch)
    exported = load(proto).to_proto()
    assert [t.name for t in exported.graph.initializer] == ["w"]
    assert all(not a.g.initializer for a in exported.graph.node[0].attribute)


def test_38_sorted_graphs_keep_their_order(parse):
    model = parse(
        HEADER + "g (float[4] x) => (float[4] d, float[4] b) { a = Relu(x) b = Neg(a) c = Abs(x) d = Add(c, a) }"
    )
    model.graph.sort()
    assert [n.op for n in model.graph.nodes] == ["Relu", "Neg", "Abs", "Add"]


def test_39_nothing_is_printed(parse):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        graph = parse(BRANCH).graph
        assert not hasattr(graph, "no_such_function")
        graph.cleanup().toposort()
    assert out.getvalue() == ""
