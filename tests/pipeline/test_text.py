"""The grammar of pipeline text: steps, quotes, escapes, errors with a caret, round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.pipeline.text import StepText, format_text, parse_text, plain, quote, split, split_last


def test_steps_and_options() -> None:
    assert parse_text("prune,quantize") == (StepText("prune"), StepText("quantize"))
    assert parse_text("prune:ratio=0.5:align=16,quantize:types=u8s8") == (
        StepText("prune", (("ratio", "0.5"), ("align", "16"))),
        StepText("quantize", (("types", "u8s8"),)),
    )


def test_white_space_does_not_count() -> None:
    assert parse_text(" prune : ratio = 0.5 ,\n quantize ") == parse_text("prune:ratio=0.5,quantize")
    assert parse_text("") == parse_text(" \n") == ()


def test_values_keep_separators_that_are_quoted_or_escaped() -> None:
    [step] = parse_text(r"""p:a="x,y:z":b='it"s':c=x\,y:d=re=^a=b$:e=""")
    values = {k: plain(v) for k, v in step.options}
    assert values == {"a": "x,y:z", "b": 'it"s', "c": "x,y", "d": "re=^a=b$", "e": ""}


def test_an_escaped_space_at_the_end_stays() -> None:
    [step] = parse_text("p:a=x\\  ")
    assert plain(step.options[0][1]) == "x "
    [step] = parse_text("p:a=x\\\\ ")
    assert plain(step.options[0][1]) == "x\\"


def test_splitting_values() -> None:
    assert split("", "+") == []
    assert split('a+"b+c"+d\\+e', "+") == ["a", '"b+c"', "d\\+e"]
    assert split_last('"a@b"@c@0.5', "@") == ('"a@b"@c', "0.5")
    assert split_last('"a@b"', "@") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune,", "column 7: a pass name is missing\n  prune,\n        ^"),
        ("prune,,quantize", "column 7: a pass name is missing"),
        ("prune:ratio", "column 12: option 'ratio' has no value; write ratio=value\n  prune:ratio\n             ^"),
        ("prune:=1", "column 7: an option name is missing; write key=value after ':'"),
        ("prune:ratio=1:ratio=2", "column 15: option 'ratio' of 'prune' is given twice"),
        ('prune:a="x', 'column 9: this quote is not closed\n  prune:a="x\n          ^'),
        ("prune:a=x\\", "column 10: a backslash at the end escapes nothing"),
        ("2prune", "column 1: '2prune' is not a pass name"),
        ("a,\n  b c", "column 3: 'b c' is not a pass name (letters, digits, '_', '-', '.')\n    b c\n    ^"),
    ],
)
def test_errors_point_at_the_place(text, message) -> None:
    with pytest.raises(UsageError) as caught:
        parse_text(text)
    assert message in str(caught.value)


@given(st.text())
def test_any_string_can_be_a_value(value) -> None:
    assert plain(quote(value)) == value
    assert split(quote(value) + "+b", "+") == [quote(value), "b"]
    [step] = parse_text(f"p:key={quote(value)}")
    assert plain(step.options[0][1]) == value


names = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
steps = st.builds(
    lambda name, values: StepText(name, tuple((k, quote(v)) for k, v in values.items())),
    names,
    st.dictionaries(names, st.text()),
)


@given(st.lists(steps))
def test_parse_reads_back_what_format_writes(written) -> None:
    assert parse_text(format_text(written)) == tuple(written)


@given(st.text(alphabet="ab,:=+@\"'\\ \n"))
def test_any_text_parses_or_is_refused(text) -> None:
    try:
        parsed = parse_text(text)
    except UsageError:
        return
    assert parse_text(format_text(parsed)) == parsed
