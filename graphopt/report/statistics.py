"""The counts that passes keep, in words: for the terminal and the page. The JSON has the counts as they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.report.words import number
from graphopt.results import PassResult

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "rounds": "{n} round{s}",
        "removed": "{n} unused node{s} and weight{s} removed",
        "functions": "{n} function{s} expanded",
        "units removed": "{n} unit{s} removed",
        "macs kept": "{p} of the MACs kept",
        "parameters kept": "{p} of the parameters kept",
        "prunable share of macs": "{p} of the MACs can be pruned",
        "masked error": "masked model differs by {n} at most",
        "classes exchanged": "{n} class{es} proven by an exchange",
        "inconclusive": "{n} class{es} not proven: no exchange moved an output",
        "constants folded into biases": "{n} constant channel{s} folded into biases",
        "output error before recovery": "output error {n} before recovery",
        "output error after recovery": "{n} after it",
        "layers recovered": "{n} layer{s} recovered",
        "weights changed": "{n} weight{s} clipped",
        "sparsity": "{p} of the weights are zero",
        "weights in float32": "{n} weight{s} widened to float32",
        "casts put in": "{n} cast{s} put in",
        "tensors equalized": "channel ranges of {n} tensor{s} evened out",
        "pairs undone": "{n} of them undone",
        "integer kernels": "{n} layer{s} run on integers",
        "compute layers left in float": "{n} left in float",
        "tensors quantized": "{n} tensor{s} quantized",
        "recurrent layers on integers": "{n} recurrent layer{s} on integers",
        "products on integers": "{n} matrix product{s} on integers",
        "matrices quantized": "{n} matri{ces} quantized",
        "weights stored as integers": "{n} weight{s} stored as integers",
        "bytes saved": "{n} byte{s} saved",
        "output SQNR dB": "outputs at {n} dB SQNR",
        "opset_stamp": "opset lowered",
        "ir_stamp": "IR version lowered",
    }
)
_ALWAYS = frozenset({"macs kept", "parameters kept", "sparsity"})


def statistics_words(result: PassResult) -> str:
    """What a pass counted. A name that is not in the table is that of a rewrite, and is shown as a count of it.

    A composite shows its rounds and, by pass, what the passes in it counted.
    """
    if result.inner:
        rounds = [_word("rounds", n) for name, n in result.statistics.items() if name == "rounds"]
        inner = [f"{p.name}: {words}" for p in result.inner if p.changed and (words := statistics_words(p))]
        return "; ".join([*rounds, *inner])
    return ", ".join(_word(name, n) for name, n in result.statistics.items() if n or name in _ALWAYS)


def _word(name: str, value: float) -> str:
    template = _WORDS.get(name)
    if template is None:
        return f"{number(value)} x {name.replace('_', ' ')}"
    endings = {"s": "", "es": "", "ces": "x"} if value == 1 else {"s": "s", "es": "es", "ces": "ces"}
    return template.format(n=number(value), p=f"{value:.1%}", **endings)
