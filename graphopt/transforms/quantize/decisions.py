"""How many decisions a changed model makes differently: which class is largest, where an output is a Softmax.

A decision changes where noise on the difference of the two largest values exceeds their margin. Small noise only
reaches margins near zero, so the share of changed decisions is the density of margins there times the mean noise
against them. Both are taken from the decisions of least margin, so that a few hundred tell shares of a thousandth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array

ALLOWED = 0.002
"""A decision that changes costs at most one hit: this is what 0.2 points of accuracy need."""

_NEAREST_SHARE, _NEAREST_AT_LEAST = 0.05, 16


@dataclass(frozen=True)
class Margins:
    """Of each decision, the lead of the largest value over the next, and what the noise adds to it; float64 [n].

    Where all other classes are masked (minus infinity), the lead is infinite and nothing changes the decision.
    """

    lead: Array
    noise: Array

    @staticmethod
    def between(wanted: Array, got: Array) -> Margins:
        """Margins of values [..., classes] and of noisy ones; at least two classes."""
        exact = wanted.reshape(-1, wanted.shape[-1]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = got.reshape(exact.shape) - exact
        rows, top = np.arange(len(exact)), exact.argmax(axis=-1)
        others = exact.copy()
        others[rows, top] = -np.inf
        second = others.argmax(axis=-1)
        lead = exact[rows, top] - exact[rows, second]
        with np.errstate(invalid="ignore"):
            return Margins(lead, np.where(np.isposinf(lead), 0.0, error[rows, top] - error[rows, second]))

    @staticmethod
    def joined(parts: Sequence[Margins]) -> Margins:
        """The decisions of several runs."""
        return Margins(np.concatenate([p.lead for p in parts]), np.concatenate([p.noise for p in parts]))

    def changed(self) -> float:
        """Expected share of the decisions that change, at most 1."""
        count = len(self.lead)
        most = min(max(_NEAREST_AT_LEAST, round(_NEAREST_SHARE * count)), count - int(np.isposinf(self.lead).sum()))
        near = np.argsort(self.lead, kind="stable")[:most]
        if not len(near):
            return 0.0
        reach = float(self.lead[near[-1]])
        noise = float(np.abs(self.noise[near]).mean()) / 2
        if not math.isfinite(noise):
            return 1.0
        return min(1.0, len(near) / count * noise / reach) if reach > 0 else float(noise > 0)
