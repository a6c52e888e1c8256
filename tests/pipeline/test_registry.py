"""The registry: entry points, plugins, names, errors."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from graphopt.errors import GraphoptError, UsageError
from graphopt.pipeline import Pass, Pipeline, Registry

PLUGIN = '''
from graphopt.pipeline import Pass, Options, option

class GreetOptions(Options):
    name: str = option("you", "Whom.")

class Greet(Pass[GreetOptions]):
    """Say hello."""
    def run(self, model, ctx):
        ctx.note(None, self.options.name)

class Base(Pass):
    """Abstract: not a pass of its own."""
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "greetings.py"
    path.write_text(PLUGIN)
    return path


def test_a_plugin_file_adds_its_passes(plugin) -> None:
    registry = Registry()
    assert registry.load_plugin(str(plugin)) == ["greet"]
    assert "greet" in registry.passes.names()
    assert str(Pipeline.parse("greet:name=world", registry)) == "greet:name=world"
    assert registry.load_plugin(str(plugin)) == ["greet"], "twice does no harm"


def test_a_plugin_module_adds_to_any_group(tmp_path, monkeypatch) -> None:
    (tmp_path / "graphopt_test_plugin.py").write_text(
        "def register(registry):\n    registry.criteria.add('mine', len)\n    registry.metrics.add('mine', max)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    assert registry.load_plugin("graphopt_test_plugin") == []
    assert registry.criteria.get("mine") is len
    assert registry.metrics.get("mine") is max
    with pytest.raises(UsageError, match=r"there is no criterion 'min'\. Did you mean 'mine'\?"):
        registry.criteria.get("min")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "defines no Pass, no function marked"),
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError"),
        ("1 +", "cannot be loaded: SyntaxError"),
        ("raise RuntimeError('no')", "cannot be loaded: RuntimeError: no"),
    ],
)
def test_wrong_plugins(tmp_path, source, message) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=message):
        Registry().load_plugin(str(path))


def test_missing_plugins(tmp_path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        Registry().load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(UsageError, match="cannot be loaded: ModuleNotFoundError"):
        Registry().load_plugin("graphopt_no_such_module")


def test_a_taken_name_is_refused(tmp_path, plugin) -> None:
    registry = Registry()
    registry.load_plugin(str(plugin))
    other = tmp_path / "other.py"
    other.write_text(PLUGIN)
    with pytest.raises(UsageError, match="there already is a pass 'greet'; give yours another name"):
        registry.load_plugin(str(other))


def install(monkeypatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(
        "graphopt.pipeline.registry.entry_points", lambda group: [p for p in points if p.group == group]
    )


def test_entry_points_are_loaded_when_asked_for(monkeypatch, tmp_path) -> None:
    (tmp_path / "graphopt_installed.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    install(
        monkeypatch,
        EntryPoint("greet", "graphopt_installed:Greet", "graphopt.passes"),
        EntryPoint("broken", "graphopt_no_such_module:X", "graphopt.passes"),
        EntryPoint("other", "graphopt_installed:Greet", "graphopt.passes"),
        EntryPoint("number", "math:pi", "graphopt.passes"),
    )
    passes = Registry().passes
    assert passes.names() == ["broken", "greet", "number", "other"]
    assert issubclass(passes.get("greet"), Pass)
    with pytest.raises(GraphoptError, match=r"pass 'broken' \(graphopt_no_such_module:X\) cannot be imported"):
        passes.get("broken")
    with pytest.raises(GraphoptError, match="registered under a name that is not its own, 'greet'"):
        passes.get("other")
    with pytest.raises(GraphoptError, match=r"pass 'number' is 3\.14.*, not a subclass"):
        passes.get("number")


def test_two_packages_with_one_name(monkeypatch) -> None:
    install(monkeypatch, EntryPoint("a", "x:A", "graphopt.passes"), EntryPoint("a", "y:A", "graphopt.passes"))
    with pytest.raises(UsageError, match="two installed packages provide the pass 'a': x:A and y:A; uninstall one"):
        Registry().passes.names()


def test_an_installed_name_cannot_be_taken(monkeypatch, plugin) -> None:
    install(monkeypatch, EntryPoint("greet", "x:A", "graphopt.passes"))
    with pytest.raises(UsageError, match="there already is a pass 'greet'"):
        Registry().load_plugin(str(plugin))
