"""Options of a pass: declared once with type, default and description; read from text, recipes and Python."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from graphopt.errors import UsageError
from graphopt.pipeline import codec
from graphopt.pipeline.values import Pattern, PatternMap

_TUNABLE = "tunable"


@dataclass(frozen=True)
class Tunable:
    """A knob that the search driver may turn: from ``mild`` (loses least) to ``strong`` (compresses most).

    The effect must be monotone in between. Values nearer than ``tolerance`` are not told apart.
    """

    mild: float
    strong: float
    tolerance: float = 0.01


def option(
    default: Any,
    description: str,
    *,
    tunable: Tunable | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """Declare an option: ``ratio: float = option(0.3, "Share of units to remove.", ge=0, lt=1)``."""
    extra: JsonDict = {} if tunable is None else {_TUNABLE: dict(dataclasses.asdict(tunable))}
    return Field(default, description=description, json_schema_extra=extra or None, ge=ge, gt=gt, le=le, lt=lt)


class Options(BaseModel):
    """Base of all options. Instances are frozen; unknown names are refused; every field has a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"{cls.__name__}.{name}: describe it, e.g. with option(default, 'What it does.')")
            if field.is_required():
                raise TypeError(f"{cls.__name__}.{name}: give it a default; a pass must run without options")
            if not codec.is_supported(field.annotation):
                raise TypeError(f"{cls.__name__}.{name}: lists of lists and maps of lists cannot be written as text")

    @model_validator(mode="before")
    @classmethod
    def _none_words(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {k: codec.from_data(fields[k].annotation, v) if k in fields else v for k, v in values.items()}

    def patterns(self) -> Iterator[tuple[str, Pattern]]:
        """The node patterns among the values, each with the name of its option."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            for item in value if isinstance(value, (tuple, PatternMap)) else (value,):
                picked = item[0] if isinstance(value, PatternMap) else item
                if isinstance(picked, Pattern):
                    yield name, picked

    @classmethod
    def from_text(cls, owner: str, raw: Mapping[str, str]) -> Self:
        """Options from the raw values of a pipeline text.

        Raises:
            UsageError: a name or value is wrong; the message names ``owner``, the option and what is allowed.
        """
        cls.check_names(owner, raw)
        values: dict[str, object] = {}
        for name, value in raw.items():
            try:
                values[name] = codec.from_text(cls.model_fields[name].annotation, value)
            except ValueError as error:
                cls._refuse(owner, name, value, str(error))
        return cls.from_data(owner, values)

    @classmethod
    def from_data(cls, owner: str, values: Mapping[str, object]) -> Self:
        """Options from plain data (a recipe) or Python values.

        Raises:
            UsageError: as ``from_text``.
        """
        cls.check_names(owner, values)
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if not problem["loc"]:
                raise UsageError(f"{owner}: {reason}") from error
            name = str(problem["loc"][0])
            cls._refuse(owner, name, codec.to_text(values[name]), reason)

    def to_text(self) -> dict[str, str]:
        """The options that were given, raw, in the order of their declaration."""
        return {name: codec.to_text(getattr(self, name)) for name in self._given()}

    def to_data(self) -> dict[str, object]:
        """The options that were given, as plain data."""
        return {name: codec.to_data(getattr(self, name)) for name in self._given()}

    def given(self, name: str) -> bool:
        """Whether the user set the option, be it to its default."""
        return name in self.model_fields_set

    def replaced(self, owner: str, **values: object) -> Self:
        """Options with some values replaced, validated again."""
        return type(self).from_data(owner, {**{n: getattr(self, n) for n in self._given()}, **values})

    @classmethod
    def tunables(cls) -> dict[str, Tunable]:
        """The knobs that the search driver may turn."""
        found = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.json_schema_extra, dict) and isinstance(
                knob := field.json_schema_extra.get(_TUNABLE), dict
            ):
                found[name] = Tunable(**{k: float(v) for k, v in knob.items() if isinstance(v, int | float)})
        return found

    def open_knobs(self) -> dict[str, Tunable]:
        """The knobs that the user left open. Override where other options settle a knob."""
        return {name: knob for name, knob in self.tunables().items() if not self.given(name)}

    @classmethod
    def allowed(cls, name: str) -> str:
        """In words, what an option accepts."""
        field = cls.model_fields[name]
        return codec.describe(field.annotation, _constraints(field))

    def _given(self) -> list[str]:
        return [name for name in type(self).model_fields if name in self.model_fields_set]

    @classmethod
    def check_names(cls, owner: str, names: Iterable[str]) -> None:
        """Raise a UsageError for the first name that is no option."""
        for name in names:
            if name not in cls.model_fields:
                known = list(cls.model_fields)
                listed = f" Options: {', '.join(known)}." if known else " It has no options."
                raise UsageError(f"{owner} has no option {name!r}.{did_you_mean(name, known)}{listed}")

    @classmethod
    def _refuse(cls, owner: str, name: str, value: str, reason: str) -> NoReturn:
        default = codec.to_text(cls.model_fields[name].get_default(call_default_factory=True))
        raise UsageError(
            f"{owner}: option {name!r} cannot be {value or 'empty'}: {reason}. "
            f"Allowed: {cls.allowed(name)} (default: {default or 'empty'})."
        )


def did_you_mean(name: str, known: Iterable[str], key: Callable[[str], str] = str.lower) -> str:
    """`` Did you mean 'x'?``, or nothing when no known name is near."""
    by_key = {key(k): k for k in known}
    near = difflib.get_close_matches(key(name).replace("-", "_"), by_key, n=1, cutoff=0.5)
    return f" Did you mean {by_key[near[0]]!r}?" if near else ""


def _constraints(field: FieldInfo) -> tuple[Any, ...]:
    return tuple(field.metadata)
