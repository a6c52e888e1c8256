"""The operator table is complete: every ai.onnx operator has a row or stands here with the reason that it has none."""

from __future__ import annotations

import onnx

from graphopt.analysis.labels.rows import builtin

NO_ROW = {
    "control flow": "If Loop Scan",
    "no activations": "Constant ImageDecoder",
    "losses": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "text": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
}
MICROSOFT = (
    "Attention BiasAdd BiasDropout BiasGelu BiasSoftmax DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul "
    "EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation Gelu "
    "GemmFastGelu GridSample GroupQueryAttention MatMulIntegerToFloat MatMulNBits MoE MultiHeadAttention NhwcConv "
    "NhwcFusedConv NhwcMaxPool QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
    "QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu "
    "RelativePositionBias RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization "
    "SkipSimplifiedLayerNormalization SwiGLU TransposeMatMul"
)


def test_every_operator_has_a_row_or_a_reason() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    rows = {op for domain, op in builtin() if domain == ""}
    excused = {op for text in NO_ROW.values() for op in text.split()}
    assert known - rows == excused
    assert not rows & excused


def test_fused_and_quantized_operators_have_rows() -> None:
    rows = {op for domain, op in builtin() if domain == "com.microsoft"}
    assert set(MICROSOFT.split()) <= rows
