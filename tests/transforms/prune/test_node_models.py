"""Every operator test model of ONNX itself: all its inputs become weights, all its outputs are summed with random
factors, a random part of all free units goes, and the result must equal the masked model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import load
from graphopt.analysis import shapes
from graphopt.analysis.labels import Coupling, Frozen, analyse
from graphopt.transforms.prune import masking, slicing
from graphopt.transforms.prune.equivalence import _session
from graphopt.transforms.prune.keepset import KeepSet

OLDEST = 13


def wrapped(case: object) -> onnx.ModelProto | None:
    """The case with weights for inputs and random sums for outputs, or None when that cannot be done."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)  # type: ignore[attr-defined]
    graph = proto.graph
    inputs, outputs = case.data_sets[0]  # type: ignore[attr-defined]
    random = np.random.default_rng(0)
    if any(not isinstance(v, np.ndarray) for v in inputs):
        return None
    graph.initializer.extend(numpy_helper.from_array(v, i.name) for i, v in zip(graph.input, inputs, strict=False))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("unused", 1, [1]))
    sums = []
    for info, value in zip(list(graph.output), outputs, strict=False):
        if not isinstance(value, (np.ndarray, np.generic)):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" or not array.size:
            continue
        factors = random.standard_normal(array.shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(factors, f"{info.name}_w"))
        graph.node.append(helper.make_node("Cast", [info.name], [f"{info.name}_c"], to=1))
        graph.node.append(helper.make_node("Mul", [f"{info.name}_c", f"{info.name}_w"], [f"{info.name}_m"]))
        graph.node.append(helper.make_node("ReduceSum", [f"{info.name}_m"], [f"{info.name}_s"], keepdims=0))
        sums.append(f"{info.name}_s")
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(s, 1, []) for s in sums)
    return proto if sums else None


def random_units(coupling: Coupling) -> KeepSet | None:
    """Remove two fifths of all leaf classes, at least one position of every axis staying."""
    solution = coupling.solution
    leaves = (np.random.default_rng(1).random(len(solution.frozen)) < 0.4) & solution.leaf
    record = coupling.record
    axes = [
        a
        for group in (*record.axes.values(), *record.edge_axes.values())
        for a in group
        if not isinstance(a, Frozen) and len(a)
    ]
    for _ in range(20):
        keep = KeepSet.removing(coupling, leaves)
        empty = [a for a in axes if not keep.mask(a).any()]
        if not empty:
            return None if keep.empty() else keep
        for axis in empty:
            leaves[solution.class_of[axis]] = False
    return None


def error_of(proto: onnx.ModelProto) -> float | None:
    """The difference between pruned and masked model; None when nothing is free or the runtime lacks the operator."""
    model = load(proto)
    model.inline_functions()
    coupling = analyse(model.graph)
    keep = random_units(coupling)
    if keep is None:
        return None
    feed = {"unused": np.zeros(1, np.float32)}
    try:
        _session(load(proto), []).run(None, feed)
    except Exception:  # noqa: BLE001  (whatever the runtime cannot do itself proves nothing)
        return None
    oracle = masking.build(model, coupling, keep)
    expected = _session(oracle.model, []).run(None, {**feed, **oracle.feeds(keep)})
    slicing.apply(keep)
    found = _session(model, []).run(None, feed)
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if np.isfinite(a) or np.isfinite(b):
            worst = max(worst, abs(float(a) - float(b)) / max(1.0, abs(float(a))))
    return worst


@pytest.mark.parametrize("part", [pytest.param(k, marks=[] if k == 0 else pytest.mark.slow) for k in range(6)])
def test_node_models(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx.backend.test.case.node import collect_testcases

    monkeypatch.setattr(shapes, "VALUE_CAP", 24)  # the inputs stand for activations: nothing is to be evaluated
    bad: dict[str, str] = {}
    proven = 0
    with np.errstate(all="ignore"):
        cases = collect_testcases(None)
    for case in cases[part::6]:
        proto = wrapped(case)
        opset = max((o.version for o in case.model.opset_import if not o.domain), default=OLDEST)
        if proto is None or opset < OLDEST:
            continue
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError:
            continue
        try:
            error = error_of(proto)
        except Exception as problem:  # noqa: BLE001  (collected, and the test fails with all of them)
            bad[case.name] = f"{type(problem).__name__}: {problem}"
            continue
        if error is not None and error > 1e-4:
            bad[case.name] = f"error {error}"
        proven += error is not None
    assert not bad
    assert proven > 100
