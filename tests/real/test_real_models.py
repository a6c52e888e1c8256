"""Other people's trained models through the whole pipeline, on real inputs where there are any."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from real_samples import decode, file_bytes, magika_padding, model_file, speech, text_lines

from graphopt.pipeline.job import Job, JobData, Measuring
from graphopt.pipeline.runner import run_job

PASSES = "cleanup,clip:above=p99.99,prune:keep_macs=0.95,quantize"


def run(model, out, calibration, evaluation, passes=PASSES):
    data = JobData(str(calibration), str(evaluation))
    return run_job(Job(model, out, passes, data=data, measuring=Measuring(time=False)))


def bare(text):
    return text.replace(" ", "")


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture
def ocr(tmp_path):
    model = model_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    np.savez(tmp_path / "calib.npz", x=text_lines(48, 1)[0])
    images, texts = text_lines(16, 2)
    np.savez(tmp_path / "score.npz", x=images)
    return model, images, texts


def read(path, images):
    loaded = onnx.load(path)
    characters = next(p.value for p in loaded.metadata_props if p.key == "character")
    return decode(session(path).run(None, {"x": images})[0], characters)


def test_ocr_cleaned_reads_the_same(ocr, tmp_path):
    model, images, texts = ocr
    out = tmp_path / "clean.onnx"
    result = run(model, out, tmp_path / "calib.npz", tmp_path / "score.npz", "cleanup")
    assert result.comparison.worst < 1e-4
    assert read(out, images) == read(model, images)
    assert np.mean([bare(a) == bare(b) for a, b in zip(read(model, images), texts, strict=True)]) > 0.8


def test_ocr_quantized_reads_the_same(ocr, tmp_path):
    model, images, _ = ocr
    out = tmp_path / "small.onnx"
    result = run(model, out, tmp_path / "calib.npz", tmp_path / "score.npz", "cleanup,quantize")
    assert result.output.bytes < 0.75 * result.input.bytes
    assert np.mean([a == b for a, b in zip(read(out, images), read(model, images), strict=True)]) > 0.9


@pytest.mark.slow
def test_ocr_through_the_whole_pipeline(ocr, tmp_path):
    model, images, _ = ocr
    out = tmp_path / "small.onnx"
    result = run(model, out, tmp_path / "calib.npz", tmp_path / "score.npz")
    assert result.output.bytes < 0.45 * result.input.bytes
    agreement = np.mean([a == b for a, b in zip(read(out, images), read(model, images), strict=True)])
    assert agreement > 0.6


@pytest.mark.slow
def test_ocr_with_a_least_fidelity_of_clipping_reads_the_same(ocr, tmp_path):
    model, images, _ = ocr
    out = tmp_path / "small.onnx"
    passes = PASSES.replace("p99.99", "p99.99:fidelity=20")
    run(model, out, tmp_path / "calib.npz", tmp_path / "score.npz", passes)
    assert np.mean([a == b for a, b in zip(read(out, images), read(model, images), strict=True)]) > 0.9


def test_magika_through_the_whole_pipeline(tmp_path):
    model = model_file("magika", "models/standard_v3_3/model.onnx")
    padding = magika_padding(model)
    np.savez(tmp_path / "calib.npz", bytes=file_bytes(48, 1, padding))
    np.savez(tmp_path / "score.npz", bytes=file_bytes(48, 2, padding))
    result = run(model, tmp_path / "small.onnx", tmp_path / "calib.npz", tmp_path / "score.npz")
    assert session(tmp_path / "small.onnx")
    assert result.output.bytes < result.input.bytes
    assert result.comparison.outputs[0].top1_agreement > 0.8


def test_silero_through_the_whole_pipeline(tmp_path):
    model = model_file("silero_vad", "data/silero_vad_16k_sequence.onnx")
    np.savez(tmp_path / "calib.npz", **speech(6, 24, 1))
    np.savez(tmp_path / "score.npz", **speech(4, 24, 2))
    result = run(model, tmp_path / "small.onnx", tmp_path / "calib.npz", tmp_path / "score.npz")
    assert session(tmp_path / "small.onnx")
    assert result.comparison.finite
    assert result.output.bytes < result.input.bytes


def test_the_interface_of_real_models_is_kept(tmp_path):
    model = model_file("silero_vad", "data/silero_vad_16k_sequence.onnx")
    run_job(Job(model, tmp_path / "o.onnx", "cleanup", data=JobData(dims={"sequence_length": 4})))
    before, after = onnx.load(model).graph, onnx.load(tmp_path / "o.onnx").graph
    for one, two in ((before.input, after.input), (before.output, after.output)):
        assert [i.name for i in one] == [i.name for i in two]


def test_a_model_that_is_quantized_already_is_left_as_it_is(tmp_path):
    """DynamicQuantizeLinear, ConvInteger and DynamicQuantizeLSTM at opset 12, with seven imported domains."""
    model = model_file("ddddocr", "common_old.onnx")
    images = np.random.default_rng(0).random((4, 1, 1, 64, 96)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input1=images)
    out = tmp_path / "out.onnx"
    run(model, out, tmp_path / "images.npz", tmp_path / "images.npz", "quantize")
    before, after = onnx.load(model), onnx.load(out)
    for op in ("DynamicQuantizeLinear", "ConvInteger", "DynamicQuantizeLSTM"):
        assert [n.op_type for n in before.graph.node].count(op) == [n.op_type for n in after.graph.node].count(op)
    assert [o.version for o in before.opset_import if not o.domain] == [12]
    assert [o.version for o in after.opset_import if not o.domain] == [12]
    wanted, got = (session(p).run(None, {"input1": images[0]})[0] for p in (model, out))
    assert np.array_equal(wanted, got)
