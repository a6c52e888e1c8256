"""``--set PASS.OPTION=VALUE`` and ``--set PASS.OPTION.PATTERN=VALUE``: single options of a pipeline replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.pipeline import codec, text
from graphopt.pipeline.options import Options, did_you_mean
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import AnyPass

_HEAD = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)(?:#(?P<number>[0-9]+))?\.(?P<option>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Override:
    """One ``--set``: which pass (``number`` when it occurs several times), which option, for which pattern."""

    name: str
    number: int | None
    option: str
    pattern: str | None
    raw: str


def parse_override(setting: str) -> Override:
    """Read ``prune.ratio=0.5``, ``prune.ratios./layer1/*=0.3`` or ``prune#2.ratio=0.5``.

    A pattern may hold ``=``, as in ``prune.ratios.op=Conv=0.3``; the last ``=`` starts the value then.

    Raises:
        UsageError: it is not of this form.
    """
    head = _HEAD.match(setting)
    rest = "" if head is None else setting[head.end() :]
    pattern: str | None = None
    raw: str | None = None
    if rest.startswith("="):
        raw = rest[1:]
    elif rest.startswith(".") and (cut := text.split_last(rest[1:], "=")) is not None:
        pattern, raw = text.plain(cut[0]), cut[1]
    if head is None or raw is None:
        raise UsageError(f"--set {setting!r}: write PASS.OPTION=VALUE or PASS.OPTION.PATTERN=VALUE")
    number = None if head["number"] is None else int(head["number"])
    return Override(head["name"], number, head["option"], pattern, raw)


def apply_overrides(pipeline: Pipeline, settings: Iterable[str]) -> Pipeline:
    """The pipeline with every ``--set`` applied, in order.

    Raises:
        UsageError: a setting names a pass that is not in the pipeline, or an option or value that is wrong.
    """
    for setting in settings:
        override = parse_override(setting)
        index = _index(pipeline, override, setting)
        step = pipeline.passes[index]
        pipeline = pipeline.replaced(index, type(step)(_replaced(step, override)))
    return pipeline


def _index(pipeline: Pipeline, override: Override, setting: str) -> int:
    """Position of the pass that an override means."""
    places = [i for i, step in enumerate(pipeline) if step.name == override.name]
    if not places:
        names = [step.name for step in pipeline]
        raise UsageError(
            f"--set {setting!r}: the pipeline has no pass {override.name!r}."
            f"{did_you_mean(override.name, names)} It runs: {', '.join(names) or 'nothing'}."
        )
    if override.number is None and len(places) > 1:
        forms = " or ".join(f"{override.name}#{n}.{override.option}" for n in range(1, len(places) + 1))
        raise UsageError(f"--set {setting!r}: {override.name!r} runs {len(places)} times; write {forms}")
    number = override.number or 1
    if override.number == 0 or number > len(places):
        raise UsageError(f"--set {setting!r}: {override.name!r} runs {len(places)} times; #{override.number} is none")
    return places[number - 1]


def _replaced(step: AnyPass, override: Override) -> Options:
    options: Options = step.options
    if override.pattern is None:
        raw = {**options.to_text(), override.option: override.raw}
        return options.from_text(step.name, raw)
    options.check_names(step.name, [override.option])
    entries = codec.to_data(getattr(options, override.option))
    if not isinstance(entries, dict):
        raise UsageError(f"{step.name}: option {override.option!r} takes one value, not one per pattern")
    entries.pop(override.pattern, None)
    values = {**options.to_data(), override.option: {**entries, override.pattern: text.plain(override.raw)}}
    return options.from_data(step.name, values)
