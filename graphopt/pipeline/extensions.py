"""What a plugin gives to ``prune`` besides passes: propagation rules for operators, and criteria.

A plugin marks plain functions; the registry finds the marks when it loads the plugin. Nothing is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.analysis.labels import Rule
    from graphopt.pipeline.registry import Registry
    from graphopt.transforms.prune.criteria import Criterion

F = TypeVar("F", bound="Callable[..., Any]")
Rules: TypeAlias = "dict[tuple[str, str], Rule]"
RULE_MARK, CRITERION_MARK = "__graphopt_rules__", "__graphopt_criterion__"


def rule(*operators: str) -> Callable[[F], F]:
    """Mark a function ``(site) -> None`` as the propagation rule of these operators, ``Op`` or ``domain:Op``.

    A rule of a built-in operator replaces the built-in one.
    """
    if not operators or not all(isinstance(o, str) and o for o in operators):
        raise UsageError('write @rule("domain:Operator"), with at least one operator')

    def mark(function: F) -> F:
        setattr(function, RULE_MARK, operators)
        return function

    return mark


def criterion(name: str) -> Callable[[F], F]:
    """Mark a function ``(part, statistics, random) -> scores or None`` as the criterion of this name."""

    def mark(function: F) -> F:
        setattr(function, CRITERION_MARK, name)
        return function

    return mark


def collect_marked(module: Mapping[str, Any], registry: Registry) -> int:
    """Add all marked functions of a module to the registry; how many there were."""
    found = 0
    for thing in list(module.values()):
        for operator in getattr(thing, RULE_MARK, ()):
            registry.rules.add(operator, thing)
            found += 1
        name = getattr(thing, CRITERION_MARK, None)
        if isinstance(name, str):
            registry.criteria.add(name, thing)
            found += 1
    return found


def rules_of(registry: Registry) -> Rules:
    """All rules of plugins and of entry-point group ``graphopt.rules``, by (domain, operator).

    An entry is a rule, whose name is then its operator, or a mapping from operator to rule.

    Raises:
        UsageError: an entry is neither.
    """
    table: Rules = {}
    for name in registry.rules.names():
        entry = registry.rules.get(name)
        marked = dict.fromkeys(getattr(entry, RULE_MARK, (name,)), entry)
        for operator, function in (entry if isinstance(entry, Mapping) else marked).items():
            if not callable(function):
                raise UsageError(f"rule {operator!r} is {function!r}, not a function of one site")
            domain, _, op = operator.rpartition(":")
            table["" if domain == "ai.onnx" else domain, op] = function
    return table


def criterion_of(registry: Registry, name: str) -> Criterion:
    """A built-in criterion, or one of a plugin or of entry-point group ``graphopt.criteria``.

    Raises:
        UsageError: there is none of this name; the message names the nearest one.
    """
    from graphopt.pipeline.options import did_you_mean
    from graphopt.transforms.prune.criteria import CRITERIA

    if name in CRITERIA:
        return CRITERIA[name]
    others = registry.criteria.names()
    if name not in others:
        known = ["recovery", *CRITERIA, *others]
        raise UsageError(f"there is no criterion {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    found: Criterion = registry.criteria.get(name)
    return found
