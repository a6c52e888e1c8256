"""Counts of passes in words, and the numbers of passes inside composites."""

from __future__ import annotations

import io
from dataclasses import replace

from report_sample import sample_result

from graphopt.report.statistics import statistics_words
from graphopt.results import as_json, numbered


def test_counts_are_words():
    prune = sample_result().passes[1]
    counted = replace(prune, statistics={"units removed": 320, "macs kept": 0.6, "inconclusive": 0})
    assert statistics_words(counted) == "320 units removed, 60.0% of the MACs kept"
    assert statistics_words(replace(prune, statistics={"scale_before": 2})) == "2 x scale before"


def test_a_composite_shows_what_its_passes_did():
    cleanup, prune = sample_result().passes
    inner = (replace(prune, name="fold", statistics={"into_conv": 3}), replace(prune, name="idle", changed=False))
    whole = replace(cleanup, statistics={"rounds": 2, "into_conv": 3}, inner=inner)
    assert statistics_words(whole) == "2 rounds; fold: 3 x into conv"
    one, two = as_json(numbered((whole, prune)))
    assert (one["number"], two["number"]) == ("1", "2")
    assert [p["number"] for p in one["inner"]] == ["1.1", "1.2"]


def test_the_terminal_shows_every_part():
    from rich.console import Console

    from graphopt.report.terminal import show_run

    console = Console(width=150, record=True, file=io.StringIO())
    console.print(*show_run(sample_result(), 12), highlight=False)
    text = console.export_text()
    for part in ("Latency by layer", "arithmetic", "Cold start and memory", "2.50x [2.40, 2.60]", "prune, quantize"):
        assert part in text
