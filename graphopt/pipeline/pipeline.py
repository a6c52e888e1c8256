"""A pipeline: passes with their options, in order. Text, recipes, overrides and Python objects all make one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from graphopt.errors import UsageError
from graphopt.pipeline.passes import Composite
from graphopt.pipeline.registry import AnyPass, Registry
from graphopt.pipeline.text import StepText, format_text, parse_text


@dataclass(frozen=True)
class Pipeline:
    """An immutable row of configured passes. ``str`` gives its text."""

    passes: tuple[AnyPass, ...] = ()

    @classmethod
    def parse(cls, text: str, registry: Registry) -> Self:
        """Read a pipeline text.

        Raises:
            UsageError: the text, a pass name, an option name or a value is wrong.
        """
        return cls(tuple(_from_text(step, registry) for step in parse_text(text)))

    @classmethod
    def from_steps(cls, steps: Iterable[tuple[str, Mapping[str, object]]], registry: Registry) -> Self:
        """Passes by name, options as plain data.

        Raises:
            UsageError: a pass name, an option name or a value is wrong.
        """
        made = []
        for name, values in steps:
            kind = registry.passes.get(name)
            made.append(kind(kind.options_type.from_data(name, values)))
        return cls(tuple(made))

    def steps(self) -> list[tuple[str, dict[str, object]]]:
        """Name and given options of each pass, as plain data."""
        return [(p.name, p.options.to_data()) for p in self.passes]

    def replaced(self, index: int, replacement: AnyPass) -> Pipeline:
        """The pipeline with one pass replaced."""
        return Pipeline((*self.passes[:index], replacement, *self.passes[index + 1 :]))

    def __str__(self) -> str:
        return format_text(p.step() for p in self.passes)

    def __iter__(self) -> Iterator[AnyPass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)


@dataclass(frozen=True)
class Plan:
    """A pass of a pipeline with what it will run: itself, or the passes of a composite."""

    step: AnyPass
    inner: tuple[Plan, ...] = ()

    def leaves(self) -> Iterator[AnyPass]:
        """The passes that do the work, in order."""
        if not isinstance(self.step, Composite):
            yield self.step
        for plan in self.inner:
            yield from plan.leaves()


def expand(pipeline: Pipeline, registry: Registry, has_data: bool) -> tuple[Plan, ...]:
    """Resolve composites and check that the passes fit together, before anything runs.

    Raises:
        UsageError: a composite contains itself, a float rewrite stands after a quantizing pass, or a pass needs data
            and there is none.
    """
    plans = tuple(_plan(step, registry, ()) for step in pipeline)
    quantized_by = ""
    for outer in plans:
        for step in outer.leaves():
            needs = step.requirements()
            if "float" in needs and quantized_by:
                raise UsageError(
                    f"pass {step.name!r} rewrites float weights and stands after {quantized_by!r}; "
                    f"move it before {quantized_by}"
                )
            if "data" in needs and not has_data:
                raise UsageError(f"pass {step.name!r} needs calibration data; give it with --data")
            if step.quantizes:
                quantized_by = outer.step.name
    return plans


def _plan(step: AnyPass, registry: Registry, around: Sequence[str]) -> Plan:
    if not isinstance(step, Composite):
        return Plan(step)
    if step.name in around:
        raise UsageError(f"composite pass {step.name!r} contains itself: {' -> '.join([*around, step.name])}")
    try:
        inner = Pipeline.parse(step.pipeline(), registry)
    except UsageError as error:
        raise UsageError(f"in composite pass {step.name!r}: {error}") from error
    return Plan(step, tuple(_plan(p, registry, (*around, step.name)) for p in inner))


def _from_text(step: StepText, registry: Registry) -> AnyPass:
    kind = registry.passes.get(step.name)
    return kind(kind.options_type.from_text(step.name, dict(step.options)))
