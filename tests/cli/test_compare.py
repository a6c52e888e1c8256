"""``compare`` on the command line: inner tensors in the terminal, the JSON and the page."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from cli_net import make_net


@pytest.fixture
def damaged(net, tmp_path):
    """``net`` with other weights in the second product."""
    model = make_net()
    weight = next(w for w in model.graph.initializer if w.name == "v")
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), "v"))
    path = tmp_path / "damaged.onnx"
    onnx.save(model, path)
    return path


def test_the_first_divergence_is_named(graphopt, net, damaged, data):
    done = graphopt("compare", net, damaged, "--data", data)
    assert done.code == 0
    assert "first divergence: y, computed by" in done.out
    found = graphopt("compare", net, damaged, "--data", data, "--json").json
    assert found["first_divergence"]["tensor"] == "y"
    assert found["tensors"]["threshold_db"] == 60
    assert found["tensors"]["samples"] == 40


def test_equal_models(graphopt, net, data):
    found = graphopt("compare", net, net, "--data", data, "--json").json
    assert found["first_divergence"] is None
    assert "no divergence" in graphopt("compare", net, net, "--data", data).out


def test_outputs_only_and_another_threshold(graphopt, net, damaged, data):
    assert graphopt("compare", net, damaged, "--data", data, "--no-tensors", "--json").json["tensors"] is None
    found = graphopt("compare", net, damaged, "--data", data, "--threshold", -20, "--json").json
    assert found["first_divergence"] is None


def test_page_has_the_figures_of_the_json(graphopt, net, damaged, data, tmp_path):
    page = tmp_path / "compare.html"
    found = graphopt("compare", net, damaged, "--data", data, "--html", page, "--json").json
    text = page.read_text()
    embedded = json.loads(re.search(r'id="result">(.*?)</script>', text, re.DOTALL)[1].replace("<\\/", "</"))
    assert embedded["tensors"] == found["tensors"]
    assert "first divergence: y" in text
    assert "http://" not in text
    assert "https://" not in text
    assert graphopt("compare", net, damaged, "--data", data, "--html", page).code == 2
    assert graphopt("compare", net, damaged, "--data", data, "--html", page, "--force").code == 0


def test_a_model_with_other_inner_extents(graphopt, net, data, tmp_path):
    model = make_net()
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        cut = values[:, :5] if weight.name == "w" else values[:5]
        weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(cut), weight.name))
    onnx.save(model, tmp_path / "pruned.onnx")
    done = graphopt("compare", net, tmp_path / "pruned.onnx", "--data", data)
    assert "have other extents in the second model" in done.out


def test_kept_channels_are_compared_through_the_manifest(graphopt, net, data, tmp_path):
    out, keep = tmp_path / "p.onnx", tmp_path / "keep.json"
    passes = f"prune:ratio=0.5:align=1:recover=no:manifest={keep}"
    assert graphopt("run", net, "--passes", passes, "-o", out, "--no-time").code == 0
    plain = graphopt("compare", net, out, "--data", data)
    assert "2 have other extents" in plain.out
    assert "--manifest" in plain.out
    found = graphopt("compare", net, out, "--data", data, "--manifest", keep, "--json").json
    rows = {t["tensor"]: t for t in found["tensors"]["tensors"]}
    assert not any(t["agreement"]["shape_mismatches"] for t in rows.values())
    assert rows["a"]["agreement"]["max_abs"] < 1e-6
    assert found["first_divergence"]["tensor"] == "y"
    wrong = graphopt("compare", out, out, "--data", data, "--manifest", keep)
    assert wrong.code == 2
    assert "the manifest" in wrong.err


def test_a_manifest_needs_inner_tensors(graphopt, net, tmp_path):
    done = graphopt("compare", net, net, "--manifest", tmp_path / "m.json", "--no-tensors")
    assert done.code == 2
    assert "--no-tensors" in done.err
