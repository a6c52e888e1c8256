"""graphopt: a compiler for trained networks, over ONNX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.graph import Graph as Graph
    from graphopt.ir import Constant as Constant
    from graphopt.ir import Node as Node
    from graphopt.ir import Variable as Variable
    from graphopt.model import Model as Model
    from graphopt.model import load as load

__version__ = "0.1.0"

_PUBLIC = {
    "Constant": "graphopt.ir",
    "Graph": "graphopt.graph",
    "Model": "graphopt.model",
    "Node": "graphopt.ir",
    "Variable": "graphopt.ir",
    "load": "graphopt.model",
}

__all__ = ["Constant", "Graph", "Model", "Node", "Variable", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'graphopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
