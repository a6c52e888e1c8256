"""Imports a plugin that the user named: a Python file, or a module on the import path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from graphopt.errors import UsageError


def load_module(spec: str) -> ModuleType:
    """Import a plugin. A file is recognised by its ending ``.py``; loading it twice runs it once.

    Raises:
        UsageError: it is missing or fails while it is imported; the message says how.
    """
    try:
        return _from_file(Path(spec)) if spec.endswith(".py") else importlib.import_module(spec)
    except UsageError:
        raise
    except Exception as error:  # whatever user code raises is a fault of the plugin, not of graphopt
        raise UsageError(f"plugin {spec!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"plugin {str(path)!r}: there is no such file")
    path = path.resolve()
    name = f"graphopt_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
