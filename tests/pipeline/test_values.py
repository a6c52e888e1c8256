"""Node patterns and pattern maps."""

from __future__ import annotations

import pytest

from graphopt.ir import Node
from graphopt.pipeline import Pattern, PatternMap


def node(name: str, op: str = "Conv", domain: str = "") -> Node:
    return Node(op, name, {}, [], [], domain)


@pytest.mark.parametrize(
    ("pattern", "name", "op", "domain", "matches"),
    [
        ("/layer1/*", "/layer1/conv", "Conv", "", True),
        ("/layer1/*", "/layer10/conv", "Conv", "", False),
        ("layer1", "/layer1/conv", "Conv", "", False),
        ("conv[0]", "conv[0]", "Conv", "", True),
        ("conv[0]", "conv0", "Conv", "", True),
        ("CONV", "conv", "Conv", "", False),
        ("op=Conv", "anything", "Conv", "", True),
        ("op=Conv", "op=Conv", "Relu", "", False),
        ("op=Conv*", "x", "ConvTranspose", "", True),
        ("op=Attention", "x", "Attention", "com.microsoft", True),
        ("op=com.microsoft.*", "x", "Attention", "com.microsoft", True),
        ("op=com.microsoft.*", "x", "Attention", "", False),
        ("re=layer[12]/", "/layer2/conv", "Conv", "", True),
        ("re=^layer", "/layer2/conv", "Conv", "", False),
    ],
)
def test_patterns(pattern, name, op, domain, matches) -> None:
    assert Pattern(pattern).matches(node(name, op, domain)) is matches


def test_wrong_patterns() -> None:
    with pytest.raises(ValueError, match="empty pattern"):
        Pattern("")
    with pytest.raises(ValueError, match="not a regular expression"):
        Pattern("re=[")


def test_the_last_pattern_counts() -> None:
    table = PatternMap([(Pattern("*"), 1), (Pattern("/a/*"), 2)])
    assert table.get(node("/a/x")) == 2
    assert table.get(node("/b/x")) == 1
    assert PatternMap([(Pattern("/a/*"), 2)]).get(node("/b")) is None
    assert table.replaced(Pattern("*"), 3).get(node("/a/x")) == 3


def test_a_repeated_pattern_keeps_its_last_value_and_place() -> None:
    table = PatternMap([(Pattern("a"), 1), (Pattern("b"), 2), (Pattern("a"), 3)])
    assert [(p.text, v) for p, v in table] == [("b", 2), ("a", 3)]
    assert len(table) == 2
    assert table == PatternMap([(Pattern("b"), 2), (Pattern("a"), 3)])
    assert hash(table) == hash(PatternMap([(Pattern("b"), 2), (Pattern("a"), 3)]))
