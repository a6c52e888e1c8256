"""Options: types, text and data forms, errors, schema, tunables."""

from __future__ import annotations

import enum
import json
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from graphopt.errors import UsageError
from graphopt.pipeline import Options, Pattern, PatternMap, Share, Size, Tunable, option


class Style(enum.Enum):
    FAST = "fast"
    BEST = "best"


class Every(Options):
    ratio: Share = option(0.3, "Share to remove.", tunable=Tunable(0.0, 0.9))
    align: int | Literal["auto"] = option("auto", "Multiple.")
    steps: int = option(3, "Steps.", ge=1, le=10)
    rate: float = option(0.1, "Rate.", gt=0)
    limit: float | None = option(None, "Limit.", lt=100)
    style: Style = option(Style.FAST, "Style.")
    force: bool = option(False, "Force.")
    word: str = option("", "Word.")
    maybe: str | None = option(None, "Perhaps a word.")
    cap: Size = option(0, "Cap.")
    include: tuple[Pattern, ...] = option((), "Nodes.")
    numbers: tuple[float, ...] = option((), "Numbers.")
    kinds: frozenset[Literal["a", "b"]] = option(frozenset(), "Kinds.")
    pair: tuple[int, str] = option((1, "x"), "A pair.")
    ratios: PatternMap[float] = option(PatternMap(), "Ratio by node.")
    aligns: PatternMap[int | None] = option(PatternMap(), "Multiple by node.")
    which: Literal["all"] | tuple[int, ...] = option("all", "Which.")


def read(**raw: str) -> Every:
    return Every.from_text("every", raw)


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("ratio", "0.5", 0.5),
        ("ratio", "30%", 0.3),
        ("align", "16", 16),
        ("align", "auto", "auto"),
        ("limit", "none", None),
        ("limit", "1e-3", 1e-3),
        ("style", "best", Style.BEST),
        ("force", "true", True),
        ("word", '"a,b"', "a,b"),
        ("word", "none", "none"),
        ("maybe", "none", None),
        ("cap", "64MB", 64_000_000),
        ("cap", "1.5 GiB", 3 << 29),
        ("cap", "17", 17),
        ("include", "/a/*+op=Conv+re=^b", (Pattern("/a/*"), Pattern("op=Conv"), Pattern("re=^b"))),
        ("include", "", ()),
        ("numbers", "1+2.5+1e3", (1.0, 2.5, 1000.0)),
        ("kinds", "b+a+b", frozenset({"a", "b"})),
        ("pair", "2+y", (2, "y")),
        ("ratios", "/a/*@0.3+op=Conv@0.5", PatternMap([(Pattern("/a/*"), 0.3), (Pattern("op=Conv"), 0.5)])),
        ("ratios", '"a@b+c"@1', PatternMap([(Pattern("a@b+c"), 1.0)])),
        ("ratios", "a@1+b@2+a@3", PatternMap([(Pattern("b"), 2.0), (Pattern("a"), 3.0)])),
        ("aligns", "a@none+b@4", PatternMap([(Pattern("a"), None), (Pattern("b"), 4)])),
        ("which", "all", "all"),
        ("which", "3+4", (3, 4)),
    ],
)
def test_values_from_text(name, raw, value) -> None:
    options = read(**{name: raw})
    assert getattr(options, name) == value
    assert Every.from_text("every", options.to_text()) == options
    assert Every.from_data("every", json.loads(json.dumps(options.to_data()))) == options


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"ration": "1"},
            "every has no option 'ration'. Did you mean 'ratio'? Options: ratio, align, steps,",
        ),
        ({"Force": "true"}, "Did you mean 'force'?"),
        ({"zzz": "1"}, "every has no option 'zzz'. Options:"),
        (
            {"ratio": "1.5"},
            "every: option 'ratio' cannot be 1.5: should be less than or equal to 1. "
            "Allowed: a number from 0 to 1, or a percentage such as 30% (default: 0.3).",
        ),
        ({"steps": "11"}, "Allowed: a whole number from 1 to 10 (default: 3)."),
        ({"steps": "x"}, "every: option 'steps' cannot be x: should be a valid integer"),
        ({"rate": "0"}, "Allowed: a number above 0 (default: 0.1)."),
        ({"limit": "100"}, "Allowed: a number below 100 or none (default: none)."),
        ({"align": "many"}, "Allowed: a whole number or auto (default: auto)."),
        ({"style": "worst"}, "Allowed: fast, best (default: fast)."),
        ({"force": "perhaps"}, "Allowed: true or false (default: false)."),
        ({"cap": "5XB"}, "write a number of bytes, with a unit if you like: 64MB, 1.5GB, 512KiB"),
        ({"include": "re=("}, "'re=(' is not a regular expression"),
        ({"include": "a++b"}, "an empty pattern matches nothing; write * for all nodes"),
        ({"kinds": "c"}, "Allowed: a list joined by '+' of: a, b (default: empty)."),
        ({"ratios": "a"}, "'a' has no '@'; write pattern@value, joined by '+'"),
        ({"ratios": "a@b"}, "Allowed: pattern@value joined by '+' (value: a number) (default: empty)."),
        ({"numbers": "1+x"}, "every: option 'numbers' cannot be 1+x"),
    ],
)
def test_errors_say_what_is_allowed(raw, message) -> None:
    with pytest.raises(UsageError) as caught:
        Every.from_text("every", raw)
    assert message in str(caught.value)


def test_options_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Every().ratio = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Every(nonsense=1)  # type: ignore[call-arg]


def test_only_given_options_are_written() -> None:
    assert Every().to_text() == {}
    assert read(steps="3").to_text() == {"steps": "3"}
    assert read(steps="3").given("steps")
    assert not Every().given("steps")
    assert list(read(steps="4", ratio="0.1").to_text()) == ["ratio", "steps"], "in the order of declaration"


def test_replacing_keeps_what_was_given() -> None:
    assert read(steps="4").replaced("every", ratio=0.2).to_text() == {"ratio": "0.2", "steps": "4"}
    with pytest.raises(UsageError, match="'ratio' cannot be 2"):
        Every().replaced("every", ratio=2)


def test_numbers_with_an_exponent_survive_in_lists() -> None:
    assert read(numbers="1e16+2").to_text() == {"numbers": "1e16+2.0"}


def test_declarations_are_checked() -> None:
    with pytest.raises(TypeError, match=r"Undescribed\.x: describe it"):

        class Undescribed(Options):
            x: int = 1

    with pytest.raises(TypeError, match=r"Required\.x: give it a default"):

        class Required(Options):
            x: int = Field(description="x")

    with pytest.raises(TypeError, match=r"Nested\.x: lists of lists"):

        class Nested(Options):
            x: tuple[tuple[int, ...], ...] = option((), "x")


def test_the_schema_describes_every_option() -> None:
    schema = Every.model_json_schema()
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert set(properties) == set(Every.model_fields)
    assert all(p["description"] for p in properties.values())
    assert properties["ratio"] == {
        "default": 0.3,
        "description": "Share to remove.",
        "minimum": 0,
        "maximum": 1,
        "title": "Ratio",
        "tunable": {"mild": 0.0, "strong": 0.9, "tolerance": 0.01},
        "type": "number",
    }
    assert properties["ratios"]["additionalProperties"] == {"type": "number"}
    assert properties["include"]["items"]["type"] == "string"
    json.dumps(schema)


def test_tunables() -> None:
    assert Every.tunables() == {"ratio": Tunable(0.0, 0.9, 0.01)}


words = st.text(max_size=8)
patterns = st.one_of(
    st.text(min_size=1, max_size=8).filter(lambda t: not t.startswith("re=")),
    st.just("re=^a[+]@b$"),
    st.just("op=Conv"),
).map(Pattern)
numbers = st.floats(allow_nan=False)
every = st.fixed_dictionaries(
    {},
    optional={
        "ratio": st.floats(0, 1),
        "align": st.one_of(st.integers(), st.just("auto")),
        "steps": st.integers(1, 10),
        "limit": st.one_of(st.none(), st.floats(max_value=99, allow_nan=False)),
        "style": st.sampled_from(Style),
        "force": st.booleans(),
        "word": words,
        "maybe": st.one_of(st.none(), words.filter(lambda w: w != "none")),
        "cap": st.integers(0, 1 << 60),
        "include": st.lists(patterns).map(tuple),
        "numbers": st.lists(numbers).map(tuple),
        "kinds": st.frozensets(st.sampled_from("ab")),
        "pair": st.tuples(st.integers(), words),
        "ratios": st.lists(st.tuples(patterns, numbers)).map(PatternMap),
        "aligns": st.lists(st.tuples(patterns, st.one_of(st.none(), st.integers()))).map(PatternMap),
        "which": st.one_of(st.just("all"), st.lists(st.integers()).map(tuple)),
    },
)


@given(every)
def test_text_and_data_round_trip(values) -> None:
    options = Every(**values)
    assert Every.from_text("every", options.to_text()) == options
    assert Every.from_data("every", options.to_data()) == options


def test_infinity_round_trips() -> None:
    assert Every.from_text("every", Every(numbers=(math.inf, -math.inf)).to_text()).numbers == (math.inf, -math.inf)
