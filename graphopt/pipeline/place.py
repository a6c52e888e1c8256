"""Where a run validates and times its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.errors import ProviderError
from graphopt.pipeline.job import Where
from graphopt.runtime.openvino_session import RUNTIME, openvino_installed
from graphopt.runtime.providers import PROVIDERS, availability, require
from graphopt.targets.registry import get_target


@dataclass(frozen=True)
class Place:
    """``optimize`` is off where the result is only checked numerically; ``not_timed`` then says why.

    ``runtime`` times the models; where it is not onnxruntime, that one only checks the numbers.
    """

    provider: str
    optimize: Literal["off", "all"]
    not_timed: str = ""
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"


def place_of(where: Where) -> Place:
    """The provider that the user named, else the target's, else the CPU with optimizations off and no timing.

    Raises:
        ProviderError: a named provider cannot run here; or the target's cannot, and ``strict`` is set.
        UsageError: there is no such target or provider.
    """
    target = get_target(where.target)
    if where.provider is not None:
        return Place(require(where.provider).name, "all")
    if target.name == RUNTIME and openvino_installed():
        return Place("cpu", "off", runtime="openvino")
    own = next((row.name for row in PROVIDERS.values() if row.execution_provider == target.provider), None)
    reason = ""
    if own is None:
        reason = f"target {target.name!r} needs its own runtime: pip install 'graphopt[{target.name}]'"
    if own is not None:
        state = availability(own)
        if state.usable:
            return Place(own, "all")
        reason = f"provider {own!r} cannot run here: {state.reason}"
    if where.strict:
        raise ProviderError(reason)
    return Place("cpu", "off", reason)
