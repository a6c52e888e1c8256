"""The counts that passes keep, in words: for the terminal and the page. The JSON has the counts as they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.report.words import number
from graphopt.results import PassResult

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "rounds": "{n} rounds",
        "removed": "{n} unused nodes and weights removed",
        "functions": "{n} functions expanded",
        "units removed": "{n} units removed",
        "macs kept": "{p} of the MACs kept",
        "parameters kept": "{p} of the parameters kept",
        "prunable share of macs": "{p} of the MACs can be pruned",
        "masked error": "masked model differs by {n} at most",
        "classes exchanged": "{n} classes proven by an exchange",
        "inconclusive": "{n} classes not proven: no exchange moved an output",
        "constants folded into biases": "{n} constant channels folded into biases",
        "output error before recovery": "output error {n} before recovery",
        "output error after recovery": "{n} after it",
        "layers recovered": "{n} layers recovered",
        "weights changed": "{n} weights clipped",
        "sparsity": "{p} of the weights are zero",
        "weights in float32": "{n} weights widened to float32",
        "casts put in": "{n} casts put in",
        "tensors equalized": "channel ranges of {n} tensors evened out",
        "pairs undone": "{n} of them undone",
        "integer kernels": "{n} layers run on integers",
        "compute layers left in float": "{n} left in float",
        "tensors quantized": "{n} tensors quantized",
        "recurrent layers on integers": "{n} recurrent layers on integers",
        "products on integers": "{n} matrix products on integers",
        "matrices quantized": "{n} matrices quantized",
        "weights stored as integers": "{n} weights stored as integers",
        "bytes saved": "{n} bytes saved",
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
    words = template.format(n=number(value), p=f"{value:.1%}")
    return words.replace("1 rounds", "1 round") if value == 1 else words
