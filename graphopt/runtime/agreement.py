"""Streaming agreement of one output of two models: sums only, so memory does not grow with the samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.data.checks import Array, is_float
from graphopt.results import OutputComparison

NAN = float("nan")


class Agreement:
    """Adds up how far ``test`` arrays are from ``reference`` arrays.

    Elements that are not finite in both models are left out of the sums. Equal ones (NaN and NaN, or the same
    Inf) agree; the others are counted as new or lost non-finite.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._dtype = ""
        self._note = ""
        self._numeric = False
        self._float = False
        self._elements = 0
        self._compared = 0
        self._equal = 0
        self._new_non_finite = 0
        self._lost_non_finite = 0
        self._shape_mismatches = 0
        self._zero_signs = 0
        self._max_abs = 0.0
        self._sum_abs = 0.0
        self._sum_error = 0.0
        self._sum_reference = 0.0
        self._sum_test = 0.0
        self._sum_product = 0.0
        self._low = math.inf
        self._high = -math.inf
        self._rows = 0
        self._rows_agreeing = 0

    def add(self, reference: Any, test: Any) -> None:
        """Add the values of one run, padding already dropped."""
        if not isinstance(reference, np.ndarray) or not isinstance(test, np.ndarray):
            self._note = "sequence or optional output, not compared"
            return
        self._dtype = str(reference.dtype)
        if reference.shape != test.shape:
            self._shape_mismatches += 1
            self._note = f"shape {list(test.shape)} where the original gives {list(reference.shape)}"
            return
        self._elements += reference.size
        if reference.size == 0:
            return
        self._float = is_float(reference.dtype)
        self._numeric = self._float or reference.dtype.kind in "iub"
        if not self._numeric or reference.dtype.kind == "b":
            self._equal += int(np.count_nonzero(reference == test))
            return
        self._add_numbers(reference.astype(np.float64).ravel(), test.astype(np.float64).ravel())
        if not self._float:
            self._equal += int(np.count_nonzero(reference == test))
        elif has_classes(reference):
            same = reference.argmax(-1) == test.argmax(-1)
            self._rows += same.size
            self._rows_agreeing += int(np.count_nonzero(same))

    def _add_numbers(self, reference: Array, test: Array) -> None:
        finite_reference, finite_test = np.isfinite(reference), np.isfinite(test)
        same = (reference == test) | (np.isnan(reference) & np.isnan(test))
        self._new_non_finite += int(np.count_nonzero(~finite_test & ~same))
        self._lost_non_finite += int(np.count_nonzero(finite_test & ~finite_reference))
        both = finite_reference & finite_test
        if not both.all():
            reference, test = reference[both], test[both]
        if reference.size == 0:
            return
        self._zero_signs += int(np.count_nonzero((reference == test) & (np.signbit(reference) != np.signbit(test))))
        error = test - reference
        magnitude = np.abs(error)
        self._compared += reference.size
        self._max_abs = max(self._max_abs, float(magnitude.max()))
        self._sum_abs += float(magnitude.sum())
        self._sum_error += float(error @ error)
        self._sum_reference += float(reference @ reference)
        self._sum_test += float(test @ test)
        self._sum_product += float(reference @ test)
        self._low = min(self._low, float(reference.min()))
        self._high = max(self._high, float(reference.max()))

    def result(self) -> OutputComparison:
        """Give the figures so far."""
        compared = self._compared > 0
        counted = self._elements > 0 and not self._float
        note = self._note
        if not note and self._elements == 0:
            note = "empty output"
        return OutputComparison(
            name=self.name,
            dtype=self._dtype,
            max_abs=self._max_abs if compared else NAN,
            mean_abs=self._sum_abs / self._compared if compared else NAN,
            relative_to_range=self._relative() if compared else NAN,
            cosine=self._cosine() if compared else NAN,
            sqnr_db=self._sqnr() if compared else NAN,
            top1_agreement=self._rows_agreeing / self._rows if self._rows else None,
            equal_share=self._equal / self._elements if counted else None,
            note=note,
            elements=self._elements,
            new_non_finite=self._new_non_finite,
            lost_non_finite=self._lost_non_finite,
            shape_mismatches=self._shape_mismatches,
            zero_signs=self._zero_signs,
        )

    def _relative(self) -> float:
        """Largest error over the reference's range; a constant reference is measured by its magnitude."""
        if self._max_abs == 0.0:
            return 0.0
        extent = self._high - self._low or max(abs(self._high), abs(self._low))
        return self._max_abs / extent if extent else math.inf

    def _cosine(self) -> float:
        norm = math.sqrt(self._sum_reference) * math.sqrt(self._sum_test)
        if norm:
            return max(-1.0, min(1.0, self._sum_product / norm))
        return 1.0 if self._sum_reference == self._sum_test else 0.0

    def _sqnr(self) -> float:
        if self._sum_error == 0.0:
            return math.inf
        return 10.0 * math.log10(self._sum_reference / self._sum_error) if self._sum_reference else -math.inf


def has_classes(array: Array) -> bool:
    """True when the last axis looks like classes: float, two or three dims, more than one entry."""
    return is_float(array.dtype) and array.ndim in (2, 3) and array.shape[-1] > 1
