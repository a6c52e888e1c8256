"""What ``compare`` found inside two models: in the terminal, and as one self-contained HTML page."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from graphopt.report.charts import bar_rows
from graphopt.report.words import number
from graphopt.results import Accuracy, Comparison, TensorAgreement, TensorProfile, as_json, counted

SHOWN = 12
_TOP_DB = 100.0


def profile_items(profile: TensorProfile, everything: bool) -> list[RenderableType]:
    """The tensors where most error is added (all of them with ``everything``), and where the models part."""
    kind = " (synthetic inputs)" if profile.synthetic else ""
    form = f", the second model {profile.note}" if profile.note else ""
    title = f"Inner tensors on {counted(profile.samples, 'sample')}{kind}{form}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in ("tensor", "computed by", "SQNR dB", "lost dB", "max abs", "of range", "note"):
        right = name in ("SQNR dB", "lost dB", "max abs", "of range")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in profile.tensors if everything else _telling(profile):
        own = row.agreement
        table.add_row(
            row.tensor,
            operators(row),
            number(own.sqnr_db, 4),
            number(row.lost_db, 3) if row.lost_db >= 0.05 else "",
            number(own.max_abs),
            number(own.relative_to_range),
            row.diverged or row.scaled or own.note,
        )
    if not everything and len(profile.tensors) > SHOWN:
        table.caption = "where most is lost; -v or --json shows every tensor"
    return [table, *profile_lines(profile)]


def profile_lines(profile: TensorProfile) -> list[str]:
    """In words: how many tensors were compared, and which one parts first."""
    compared = len(profile.tensors) - len(profile.other_extents)
    lines = [f"{compared} of {profile.computed} tensors compared"]
    if profile.other_extents:
        count = len(profile.other_extents)
        lines[0] += (
            f"; {count} {'has' if count == 1 else 'have'} other extents in the second model (pruned) and "
            f"{'was' if count == 1 else 'were'} not, from {profile.other_extents[0].tensor} on: --manifest (a file "
            "that prune:manifest= wrote) compares the channels that were kept"
        )
    first = profile.first
    if first is None:
        lines.append(f"no divergence: every compared tensor has at least {profile.threshold_db:g} dB SQNR")
    else:
        lines.append(
            f"first divergence: {first.tensor}, computed by {first.node or 'the caller'} ({operators(first)}): "
            f"{first.diverged}; the threshold is {profile.threshold_db:g} dB"
        )
        if first.lost_db < 3 and not first.agreement.new_non_finite:
            worst = max(_before(profile, first), key=lambda r: r.lost_db, default=first)
            made, most = f"{first.lost_db:.1f} dB", f"{worst.lost_db:.1f} dB"
            lines.append(f"little of it is made there ({made}); most is at {worst.tensor} ({most})")
    return lines


def operators(row: TensorAgreement) -> str:
    """The operator in both models."""
    return row.op if row.op == row.test_op else f"{row.op} -> {row.test_op}"


def _before(profile: TensorProfile, row: TensorAgreement) -> tuple[TensorAgreement, ...]:
    return profile.tensors[: profile.tensors.index(row) + 1]


def _telling(profile: TensorProfile) -> list[TensorAgreement]:
    """The first divergence and the tensors that lose most, in order of computation."""
    chosen = sorted(profile.tensors, key=lambda r: -r.lost_db)[:SHOWN]
    if profile.first is not None and profile.first not in chosen:
        chosen = [*chosen[:-1], profile.first]
    return [r for r in profile.tensors if r in chosen]


def write_page(
    names: tuple[str, str], comparison: Comparison, accuracy: Accuracy | None, profile: TensorProfile | None, path: Path
) -> None:
    """Write the comparison of two models as one HTML file that needs no network and no script."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=number)
    folder = files("graphopt.report")
    template = environment.from_string((folder / "comparison.html.jinja").read_text(encoding="utf-8"))
    result = {"comparison": comparison, "accuracy": accuracy, "tensors": profile}
    page = template.render(
        names=names,
        comparison=comparison,
        accuracy=accuracy,
        profile=profile,
        lines=[] if profile is None else profile_lines(profile),
        chart="" if profile is None else sqnr_chart(profile),
        operators=operators,
        counted=counted,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        data=json.dumps(as_json(result)).replace("</", "<\\/"),
    )
    path.write_text(page, encoding="utf-8")


def sqnr_chart(profile: TensorProfile) -> str:
    """SQNR of every compared tensor in order of computation, 100 dB and more as a full bar."""
    rows = []
    for row in profile.tensors:
        value = row.agreement.sqnr_db
        if math.isnan(value) or row.agreement.shape_mismatches:
            continue
        kind = "bad" if row.diverged else "int" if "Q" in row.test_op or row.test_tensor != row.tensor else "float"
        text = f"{number(value, 3)} dB  {operators(row)}"
        rows.append((row.tensor, min(1.0, max(0.0, value / _TOP_DB)), kind, text))
    return bar_rows(rows, "SQNR by tensor")
