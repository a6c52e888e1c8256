"""Latency profiles: how long an operator of a given type and size takes on a target.

A profile is a table that was measured once and is read from a file, so that a decision made from it is the same
every time. ``digest`` identifies it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from graphopt.errors import UsageError

Precision: TypeAlias = Literal["float32", "int8"]
Curve: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Profile:
    """Measured speeds.

    Attributes:
        rates: ``"<class>/<precision>"`` -> points (channels, multiply-accumulates per microsecond).
        per_element: ``"<op>/<precision>"`` -> nanoseconds per element.
        node_us: fixed cost of running a node, microseconds, by precision.
        device: CPU or GPU that it was measured on; "" for a guess.
        runtime: name and version of the runtime.
        vnni: whether 8-bit products do not saturate on the device.
        digest: SHA-256 of the content, 16 hex digits.
    """

    rates: Mapping[str, Curve]
    per_element: Mapping[str, float]
    node_us: Mapping[str, float]
    device: str
    runtime: str
    vnni: bool
    digest: str

    def macs_us(self, layer: str, precision: Precision, channels: float, macs: float) -> float:
        """Microseconds for ``macs`` multiply-accumulates in a layer class (``conv3x3``, ``conv1x1``, ``depthwise``,
        ``matmul1``, ``matmul16``, ``matmul128``, ``matmul512``, ``lstm``); ``channels`` is the geometric mean of its
        widths, for ``lstm`` the hidden size.
        """
        return self.node_us[precision] + macs / interpolate(self.rates[f"{layer}/{precision}"], channels)

    def knows(self, layer: str) -> bool:
        """Whether the layer class was measured; profiles made by older versions lack some."""
        return f"{layer}/int8" in self.rates and f"{layer}/float32" in self.rates

    def elements_us(self, op: str, precision: Precision, elements: float) -> float:
        """Microseconds for an operator that touches ``elements`` values once."""
        table = self.per_element
        cost = table.get(f"{op}/{precision}", table[f"*/{precision}"])
        return self.node_us[precision] + 1e-3 * cost * elements

    def border_us(self, elements: float, layout: bool) -> float:
        """Microseconds for a Q or DQ at the border of an integer region; ``layout``: convolutions are next to it."""
        return self.node_us["float32"] + 1e-3 * self.per_element["border/layout" if layout else "border"] * elements


def interpolate(curve: Curve, x: float) -> float:
    """Log-log linear interpolation, constant outside the measured points."""
    points = sorted(curve)
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            t = math.log(x / x0) / math.log(x1 / x0)
            return math.exp(math.log(y0) * (1 - t) + math.log(y1) * t)
    return points[-1][1]


def load_profile(source: str | Path) -> Profile:
    """Read a profile: a shipped one by its file name, or a file made by ``graphopt profile``.

    Raises:
        UsageError: there is no such file or it is not a profile.
    """
    path = Path(source)
    try:
        shipped = files("graphopt.targets").joinpath(str(source))
        content = path.read_bytes() if path.is_file() else shipped.read_bytes()
    except OSError as error:
        raise UsageError(f"there is no latency profile {str(source)!r}") from error
    try:
        return from_json(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(source)!r} is not a latency profile: {error}") from error


def from_json(data: Mapping[str, Any]) -> Profile:
    """A profile from the content of its file."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    return Profile(
        rates={k: tuple((float(x), float(y)) for x, y in v) for k, v in data["rates"].items()},
        per_element={k: float(v) for k, v in data["per_element"].items()},
        node_us={k: float(v) for k, v in data["node_us"].items()},
        device=str(data["device"]),
        runtime=str(data["runtime"]),
        vnni=bool(data["vnni"]),
        digest=hashlib.sha256(canonical).hexdigest()[:16],
    )
