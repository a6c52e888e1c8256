"""What a pass is: a class with a name, options, a guarantee, and ``run``; or a composite that names other passes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Literal, TypeAlias, get_args

from typing_extensions import TypeVar

from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options
from graphopt.pipeline.text import StepText

Guarantee: TypeAlias = Literal["exact", "equivalent", "lossy"]
"""``exact``: outputs are bit-equal. ``equivalent``: within 1e-5 of the output range, or within what rounding the
weights anew does to the original. ``lossy``: neither."""

Requirement: TypeAlias = Literal["float", "data"]
"""``float``: must run before a quantizing pass. ``data``: needs calibration data."""

GUARANTEES: tuple[Guarantee, ...] = get_args(Guarantee)
OptionsT = TypeVar("OptionsT", bound=Options, default=Options)


def weakest(guarantees: list[Guarantee]) -> Guarantee:
    """What is left of several guarantees in a row; ``exact`` for none."""
    return GUARANTEES[max((GUARANTEES.index(g) for g in guarantees), default=0)]


class Pass(ABC, Generic[OptionsT]):
    """Base of all passes. An instance is a pass with its options and nothing else; it may run many times.

    A subclass is ``class Prune(Pass[PruneOptions])``, or ``class RemoveDropout(Pass)`` when it has no options.

    Attributes:
        name: name on the command line; by default the class name in snake_case.
        guarantee: what the pass promises about the outputs. See ``effective_guarantee``.
        preserves: names of the analyses that stay true when the pass changes a model; ``{"*"}`` for all.
        requires: what must hold before the pass. See ``requirements``.
        quantizes: whether float rewrites are refused after it.
        reports: whether the pass itself says, through ``ctx.report_change``, that it changed the model, and leaves it
            sorted and adopted. Other passes are compared before and after, which costs a look at every node.
        options_type: class of the options, taken from the base ``Pass[...]``.
    """

    name: ClassVar[str]
    guarantee: ClassVar[Guarantee] = "equivalent"
    preserves: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[Requirement]] = frozenset()
    quantizes: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    options_type: ClassVar[type[Options]] = Options

    options: OptionsT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if (promised := vars(cls).get("guarantee", "equivalent")) not in GUARANTEES and isinstance(promised, str):
            raise UsageError(f"pass class {cls.__name__}: guarantee {promised!r} must be {', '.join(GUARANTEES)}")
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        for base in vars(cls).get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Options):
                    cls.options_type = argument

    def __init__(self, options: OptionsT | None = None, **values: object) -> None:
        """Take an options object, or the values of single options.

        Raises:
            UsageError: an option is unknown or its value not allowed.
        """
        if options is None:
            options = self.options_type.from_data(self.name, values)  # type: ignore[assignment]
        self.options: OptionsT = options  # type: ignore[assignment]

    @abstractmethod
    def run(self, model: Model, ctx: Context) -> None:
        """Change the model in place. Raise to refuse; the model is then put back as it was."""

    def effective_guarantee(self) -> Guarantee:
        """The guarantee under the present options."""
        return self.guarantee

    def changes_interface(self) -> bool:
        """Whether inputs or outputs may change under the present options: names, types, ranks, fixed extents."""
        return False

    def requirements(self) -> frozenset[Requirement]:
        """What must hold before the pass, under the present options."""
        return self.requires

    def step(self) -> StepText:
        """The pass as a step of a pipeline text."""
        return StepText(self.name, tuple(self.options.to_text().items()))

    @classmethod
    def summary(cls) -> str:
        """First line of the pass's own docstring."""
        return (vars(cls).get("__doc__") or "").strip().partition("\n")[0]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Pass) and self.options == other.options

    def __hash__(self) -> int:
        return hash((type(self), self.options))

    def __repr__(self) -> str:
        return str(self.step())


class Composite(Pass[OptionsT]):
    """A pass that is a pipeline of other passes. The manager runs them, so it imports none of them.

    Attributes:
        fixed_point: whether the passes are repeated until none of them changes anything.
        max_rounds: when to stop repeating; a warning then says so.
    """

    fixed_point: ClassVar[bool] = False
    max_rounds: ClassVar[int] = 10

    @abstractmethod
    def pipeline(self) -> str:
        """The pipeline text of the passes, options filled in."""

    def run(self, model: Model, ctx: Context) -> None:
        """Never called: the manager runs the passes that ``pipeline`` names."""
        raise NotImplementedError(f"{self.name} is a composite pass; run it through the pass manager")
