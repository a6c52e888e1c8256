"""Finds passes, rules, criteria, targets and metrics by name: entry points of installed packages, and plugins.

Nothing is imported before somebody asks for it by name. Built-in passes are found as a user's own are.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from graphopt.errors import GraphoptError, UsageError
from graphopt.pipeline.extensions import collect_marked
from graphopt.pipeline.options import did_you_mean
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.plugins import load_module

T = TypeVar("T")
GroupName: TypeAlias = Literal["passes", "rules", "criteria", "targets", "metrics"]
AnyPass: TypeAlias = Pass[Any]


class Group(Generic[T]):
    """The things of one kind, by name. ``kind`` is what messages call one of them."""

    def __init__(self, kind: str, group: str) -> None:
        self._kind = kind
        self._group = group
        self._added: dict[str, T] = {}
        self._installed: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """All names, sorted. Imports nothing."""
        return sorted({*self._entry_points(), *self._added})

    def get(self, name: str) -> T:
        """The thing of this name; it is imported now.

        Raises:
            UsageError: there is none; the message names the nearest one.
            GraphoptError: it cannot be imported.
        """
        if name in self._added:
            return self._added[name]
        entry = self._entry_points().get(name)
        if entry is None:
            known = self.names()
            listed = f" Known: {', '.join(known)}." if known else ""
            raise UsageError(f"there is no {self._kind} {name!r}.{did_you_mean(name, known)}{listed}")
        try:
            loaded: T = entry.load()
        except (ImportError, AttributeError) as error:
            raise GraphoptError(f"{self._kind} {name!r} ({entry.value}) cannot be imported: {error}") from error
        return self._checked(name, loaded)

    def add(self, name: str, thing: T) -> None:
        """Add one under a free name.

        Raises:
            UsageError: the name is taken by something else.
        """
        if self._added.get(name, thing) is not thing or name in self._entry_points():
            raise UsageError(f"there already is a {self._kind} {name!r}; give yours another name")
        self._added[name] = self._checked(name, thing)

    def _checked(self, name: str, thing: T) -> T:
        return thing

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            found: dict[str, EntryPoint] = {}
            for entry in entry_points(group=self._group):
                other = found.setdefault(entry.name, entry)
                if other.value != entry.value:
                    raise UsageError(
                        f"two installed packages provide the {self._kind} {entry.name!r}: "
                        f"{other.value} and {entry.value}; uninstall one"
                    )
            self._installed = found
        return self._installed


class PassGroup(Group[type[AnyPass]]):
    """The passes."""

    def _checked(self, name: str, thing: type[AnyPass]) -> type[AnyPass]:
        if not (isinstance(thing, type) and issubclass(thing, Pass)):
            raise GraphoptError(f"pass {name!r} is {thing!r}, not a subclass of graphopt.pipeline.Pass")
        if thing.name != name:
            raise GraphoptError(f"pass {name!r} is registered under a name that is not its own, {thing.name!r}")
        return thing


class Registry:
    """Everything that can be found by name, in five groups."""

    def __init__(self) -> None:
        self.passes = PassGroup("pass", "graphopt.passes")
        self.rules: Group[Any] = Group("rule", "graphopt.rules")
        self.criteria: Group[Any] = Group("criterion", "graphopt.criteria")
        self.targets: Group[Any] = Group("target", "graphopt.targets")
        self.metrics: Group[Any] = Group("metric", "graphopt.metrics")

    def load_plugin(self, spec: str) -> list[str]:
        """Load a plugin, a Python file or an importable module, and add what it provides.

        Every concrete ``Pass`` defined in it is added under its name, every function marked with ``rule`` or
        ``criterion`` as such. If the module has a function ``register``, it is called with this registry and can add
        to any group. Returns the names of the passes added.

        Raises:
            UsageError: the plugin cannot be loaded, or provides nothing.
        """
        module = load_module(spec)
        found = [thing for thing in vars(module).values() if _is_own_pass(thing, module.__name__)]
        for thing in found:
            self.passes.add(thing.name, thing)
        marked = collect_marked(vars(module), self)
        register = getattr(module, "register", None)
        if register is not None:
            register(self)
        elif not found and not marked:
            raise UsageError(
                f"plugin {spec!r} defines no Pass, no function marked with @rule or @criterion, and no function "
                "register(registry)"
            )
        return [thing.name for thing in found]


def _is_own_pass(thing: object, module: str) -> bool:
    return (
        isinstance(thing, type)
        and issubclass(thing, Pass)
        and thing.__module__ == module
        and not inspect.isabstract(thing)
    )
