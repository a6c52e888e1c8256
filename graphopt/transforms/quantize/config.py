"""How to quantize, and what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir import Node
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.targets.profile import Profile
from graphopt.transforms.quantize.grids import Grids, QuantizedTensor
from graphopt.transforms.quantize.insert import Inserted, Settings
from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.ranges import Method
from graphopt.transforms.quantize.report import KernelReport
from graphopt.transforms.quantize.sensitivity import Sensitivity


@dataclass(frozen=True)
class QuantConfig:
    """How to quantize.

    Attributes:
        types: flavour such as ``u8s8``; None for the target's own.
        per_channel: a scale for each output channel of a weight where the target can.
        method: how ranges are found.
        reduced: weights use 7 bits; None: when the profile's device has no VNNI-like instructions.
        keep_float, force: which nodes stay in float, and which become integer even where that is slower.
        profile: latency profile to decide by; None for the target's own.
        fidelity: signal to noise at the outputs in dB, on held-back samples, that is aimed at: below it layers go back
            to float as long as that pays; 0 turns that off. ``strict``: it is reached at any loss of speed.
        equalize: even out channel ranges where that lowers the noise.
        check: load the result and put back in float what ONNX Runtime does not run on integers.
        best: learned rounding and sequential bias correction.
        batch: rows a run; None lets the data decide.
    """

    types: str | None = None
    per_channel: bool = True
    method: Method = "auto"
    reduced: bool | None = None
    keep_float: Callable[[Node], bool] = lambda _: False
    force: Callable[[Node], bool] = lambda _: False
    profile: Profile | None = None
    check: bool = True
    fidelity: float = 30.0
    strict: bool = False
    equalize: bool = True
    best: bool = False
    batch: int | None = None
    max_memory: int = 1 << 30


@dataclass
class Quantized:
    """What was done, on ``model``. ``outputs``: names that the layers' outputs had before, by id of their node."""

    model: Model
    plan: Plan
    grids: Grids
    tensors: Sequence[QuantizedTensor]
    inserted: Inserted
    settings: Settings
    probes: Mapping[str, Probe]
    outputs: Mapping[int, str]
    target: Target
    report: KernelReport | None = None
    raised_from: int | None = None
    profile: Profile | None = None
    notes: tuple[str, ...] = ()
    ranking: Sequence[Sensitivity] = ()
