"""Pipelines as TOML or YAML files.

::

    [[passes]]                      passes:
    pass = "prune"                    - cleanup
    ratio = 0.5                       - prune: {ratio: 0.5, ratios: {"/layer1/*": 0.3}}
    ratios = {"/layer1/*" = 0.3}      - quantize:types=u8s8

Each item of ``passes`` is a step as pipeline text, a table with the key ``pass``, or a table with the pass name as
its only key. Strings in tables are taken as they are: they need no quoting, and ``+`` has no meaning in them.
TOML has no null; the word ``none`` stands for it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.pipeline.options import did_you_mean
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_PASS, _PASSES = "pass", "passes"


def read_recipe(path: Path, registry: Registry) -> Pipeline:
    """Read a recipe file; ``.toml``, ``.yaml`` or ``.yml`` tells how.

    Raises:
        UsageError: the file is missing, does not parse, or does not say a pipeline; the message says where.
    """
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise UsageError(f"recipe {str(path)!r} must end in .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {str(path)!r} cannot be read: {error}") from error
    try:
        return from_toml(text, registry) if path.suffix == ".toml" else from_yaml(text, registry)
    except UsageError as error:
        raise UsageError(f"recipe {str(path)!r}: {error}") from error


def from_toml(text: str, registry: Registry) -> Pipeline:
    """Read a pipeline from TOML text. Raises UsageError."""
    try:
        return _from_document(tomllib.loads(text), registry)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML: {error}") from error


def from_yaml(text: str, registry: Registry) -> Pipeline:
    """Read a pipeline from YAML text (the safe subset). Raises UsageError."""
    import yaml

    try:
        return _from_document(yaml.safe_load(text), registry)
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {error}") from error


def to_toml(pipeline: Pipeline) -> str:
    """The pipeline as TOML text; ``from_toml`` reads it back."""
    tables = []
    for name, values in pipeline.steps():
        lines = [f"[[{_PASSES}]]", f"{_PASS} = {_toml(name)}"]
        lines += [f"{_toml_key(key)} = {_toml(value)}" for key, value in values.items()]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables) or f"{_PASSES} = []\n"


def to_yaml(pipeline: Pipeline) -> str:
    """The pipeline as YAML text; ``from_yaml`` reads it back."""
    import yaml

    items = [{name: values} if values else name for name, values in pipeline.steps()]
    return str(yaml.safe_dump({_PASSES: items}, sort_keys=False))


def _from_document(document: Any, registry: Registry) -> Pipeline:
    if not isinstance(document, Mapping) or not isinstance(document.get(_PASSES), list):
        raise UsageError(f"a recipe is a table with a list {_PASSES!r}")
    for key in document:
        if key != _PASSES:
            raise UsageError(f"unknown key {key!r}.{did_you_mean(str(key), [_PASSES])} A recipe holds only {_PASSES!r}")
    found: list[Pipeline] = []
    for number, item in enumerate(document[_PASSES], 1):
        try:
            found.append(_from_item(item, registry))
        except UsageError as error:
            raise UsageError(f"item {number} of {_PASSES!r}: {error}") from error
    return Pipeline(tuple(p for pipeline in found for p in pipeline))


def _from_item(item: Any, registry: Registry) -> Pipeline:
    if isinstance(item, str):
        return Pipeline.parse(item, registry)
    if isinstance(item, Mapping) and _PASS in item:
        values = {k: v for k, v in item.items() if k != _PASS}
        return Pipeline.from_steps([(str(item[_PASS]), values)], registry)
    if isinstance(item, Mapping) and len(item) == 1:
        [(name, values)] = item.items()
        if isinstance(values, Mapping | None):
            return Pipeline.from_steps([(str(name), {str(k): v for k, v in (values or {}).items()})], registry)
    raise UsageError(f"write 'name', {{{_PASS}: name, option: value}} or {{name: {{option: value}}}}, not {item!r}")


def _toml(value: object) -> str:
    match value:
        case None:
            return '"none"'
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return str(value)
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
        case _:
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _toml(key)
