"""What is told after a run: slower results, labels that fit nothing, warnings of passes."""

from __future__ import annotations

from dataclasses import replace

from report_sample import sample_result

from graphopt.pipeline.run_warnings import warnings_of
from graphopt.results import Remark


def test_a_slower_result_is_told():
    result = sample_result()
    assert not [w for w in warnings_of(result, ()) if "the result is slower" in w]
    last = result.timing.timings[-1]
    slow = replace(last, verdict="slower", speedup=replace(last.speedup, value=0.8, low=0.7, high=0.9))
    timing = replace(result.timing, timings=(*result.timing.timings[:-1], slow))
    (told,) = [w for w in warnings_of(replace(result, timing=timing), ()) if "the result is slower" in w]
    assert "0.80x" in told
    noise = replace(timing, timings=(*timing.timings[:-1], replace(slow, verdict="noise")))
    assert not [w for w in warnings_of(replace(result, timing=noise), ()) if "the result is slower" in w]


def test_warnings_of_a_pass_that_say_the_same_are_one():
    result = sample_result()
    remarks = (*(Remark("warning", "p", n, "look") for n in "abc"), Remark("note", "p", "a", "fine"))
    first = replace(result.passes[0], remarks=remarks)
    told = warnings_of(replace(result, passes=(first,)), ("about data",))
    assert told[0] == "about data"
    assert "p: a and 2 more nodes: look" in told
    assert not [w for w in told if "fine" in w]


def test_labels_that_fit_no_output_are_told():
    result = replace(sample_result(), accuracy=None)
    assert [w for w in warnings_of(result, (), unscored=True) if "labels fit no output" in w]
    assert not [w for w in warnings_of(result, ()) if "labels" in w]
