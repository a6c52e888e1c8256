"""The HTML report: self-contained, escaped, and telling the same figures as the JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_sample import sample_result

from graphopt.report.charts import histogram_chart
from graphopt.report.html import figures, render, write
from graphopt.results import as_json


class Page(HTMLParser):
    """Collects tags, what they link to, and the text of the key figures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "link", "input"}:
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_startendtag(self, tag, attrs):
        """Tags that close themselves open nothing."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing():
    text = render(sample_result())
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == ["data:,"]
    assert "http://" not in text
    assert "https://" not in text
    assert len(text) < 1_000_000


def test_text_from_the_model_is_escaped():
    text = render(sample_result())
    assert "<script>alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_embedded_json_is_the_result():
    result = sample_result()
    embedded = re.search(r'<script type="application/json" id="result">(.*?)</script>', render(result), re.DOTALL)
    assert json.loads(embedded[1].replace("<\\/", "</")) == json.loads(json.dumps(as_json(result)))


def test_key_figures():
    cards = {c["key"]: c for c in figures(sample_result())}
    assert cards["size"]["words"] == "0.18x the bytes"
    assert cards["latency"]["words"] == "2.50x [2.40, 2.60] faster"
    assert (cards["accuracy"]["before"], cards["accuracy"]["after"]) == ("0.9340", "0.9290")


def test_histogram_marks_the_grid_and_the_clip():
    chart = histogram_chart(sample_result().histograms[0])
    assert chart.count('class="cut"') == 2
    assert "a tick every 8 steps" in chart
    assert "now -0.64 to 0.635, step 0.005" in chart
    places = [float(x) for x in re.findall(r"M([\d.]+) 92v", chart)]
    assert all(4 <= b - a < 8.1 for a, b in pairwise(places))
    assert 130.0 in places


def test_layers_show_both_times_and_what_bounds_them():
    text = render(sample_result())
    assert "800 → 400 µs 2.0x  bound by arithmetic" in text
    assert "graphopt run residual.onnx --passes" in text
    assert "<td>BatchNormalization</td>" in text


def test_write_makes_page_and_json(tmp_path):
    page = write(sample_result(), tmp_path / "report")
    assert page.is_file()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["pipeline"].startswith("cleanup,prune")


@pytest.mark.parametrize("missing", ["timing", "comparison", "accuracy", "output"])
def test_parts_may_be_missing(missing):
    from dataclasses import replace

    assert render(replace(sample_result(), **{missing: None}, not_timed="no CUDA device"))


@pytest.fixture
def browse(tmp_path):
    """Load a page in headless Chromium, with extra options; gives the DOM and the log."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")

    def load(page, *words):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--disable-background-networking", "--no-first-run", "--enable-logging=stderr", *words]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
        assert "Uncaught" not in done.stderr
        assert "Failed to load" not in done.stderr
        return done.stdout

    return load


def test_page_loads_in_chromium_and_shows_the_figures_of_the_json(tmp_path, browse):
    page = write(sample_result(), tmp_path)
    dom = browse(page, "--dump-dom")
    assert "hidden" not in re.search(r"<input id=\"find\"[^>]*>", dom)[0]
    found = json.loads((tmp_path / "report.json").read_text())
    cards = dict(re.findall(r'data-figure="(\w+)">.*?class="value">(.*?)</div>', dom, re.DOTALL))
    shown = {
        key: [float(x) for x in re.findall(r"\d+\.\d+", re.sub(r"<[^>]*>", " ", card))] for key, card in cards.items()
    }
    first, last = (t["wall_ms"] for t in found["timing"]["timings"])
    assert re.sub(r"<[^>]*>", "", cards["latency"]).strip() == f"{first:.3g} ms → {last:.3g} ms"
    assert shown["size"] == [found["input"]["bytes"] / 1e6, found["output"]["bytes"] / 1e6]
    assert shown["accuracy"] == [found["accuracy"]["before"], found["accuracy"]["after"]]


def test_light_and_dark_differ_only_in_colour(tmp_path, browse):
    from PIL import Image

    page = write(sample_result(), tmp_path)
    corners = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        browse(
            page, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1100,900", f"--screenshot={shot}"
        )
        corners[name] = Image.open(shot).convert("L").getpixel((5, 5))
    assert corners["dark"] < 60
    assert corners["light"] > 200


def test_layers_are_drawn_on_their_own_scale_and_named_as_what_they_became():
    from graphopt.report.charts import layer_chart, layer_time_chart
    from graphopt.results import LayerChange, LayerTime

    rows = [LayerTime("one", "MatMul", 10.0, 5.0, "fixed"), LayerTime("everything else", "", 1000.0, 900.0)]
    chart = layer_time_chart(rows)
    widths = [float(w) for w in re.findall(r'class="bar \w+" x="\d+" y="\d+" width="([\d.]+)"', chart)]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1])
    assert "1e+03 → 900 µs" in chart or "1,000 → 900 µs" in chart
    became = layer_chart([LayerChange("one", "MatMul", (4, 8), (4, 8), "int4", 32, 32, "MatMulNBits")])
    assert "100%  4x8 int4 MatMulNBits" in became
    gone = layer_chart([LayerChange("one", "MatMul", (4, 8), (), "", 32, 0)])
    assert "4x8 gone" in gone
