"""Two models on the same data: outputs, inner tensors, a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OutputComparison:
    """How far one output is from the original's, over all samples.

    Errors are absolute; ``relative_to_range`` is the largest error over the original's value range, and
    ``sqnr_db`` the signal-to-error ratio (inf when equal). NaN stands where a figure does not apply: strings,
    empty outputs, sequences (``note`` says why). ``equal_share`` is the share of equal elements, for types that
    are not float. ``new_non_finite`` counts elements that are NaN or Inf in the second model but not
    alike in the original, ``lost_non_finite`` those that are only so in the original, ``shape_mismatches`` the
    runs whose shapes differ, ``zero_signs`` zeros of the other sign.
    """

    name: str
    dtype: str
    max_abs: float
    mean_abs: float
    relative_to_range: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None = None
    equal_share: float | None = None
    note: str = ""
    elements: int = 0
    new_non_finite: int = 0
    lost_non_finite: int = 0
    shape_mismatches: int = 0
    zero_signs: int = 0


@dataclass(frozen=True)
class Accuracy:
    """A metric before and after, with the paired difference (after - before) and its 95 % interval.

    ``low`` and ``high`` are None when the metric gives no values per sample; ``method`` names the interval.
    """

    metric: str
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    samples: int
    higher_is_better: bool = True
    method: str = ""
    details_before: Mapping[str, float] = field(default_factory=dict)
    details_after: Mapping[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """How much worse the metric became, in its own unit; negative when it improved."""
        return -self.difference if self.higher_is_better else self.difference


@dataclass(frozen=True)
class Comparison:
    """Two models run on the same data. ``finite``: the second one made no NaN or Inf that the first did not."""

    outputs: tuple[OutputComparison, ...]
    samples: int
    finite: bool
    synthetic: bool
    accuracy: Accuracy | None = None

    @property
    def worst(self) -> float:
        """Largest error relative to range over all outputs; inf for other shapes or new non-finite values."""
        values = [0.0]
        for output in self.outputs:
            if output.new_non_finite or output.lost_non_finite or output.shape_mismatches:
                values.append(math.inf)
            elif output.equal_share is not None:
                values.append(1.0 - output.equal_share)
            elif not math.isnan(output.relative_to_range):
                values.append(output.relative_to_range)
        return max(values)


@dataclass(frozen=True)
class TensorAgreement:
    """One inner tensor of two models.

    ``node`` and ``op`` compute it in the reference, ``test_node`` and ``test_op`` in the other model. ``lost_db`` is
    by how much its SQNR lies under that of the worst tensor it is made from (equal counts as 100 dB): where error
    is added. ``diverged`` says why it counts as diverged, "" when it does not. ``scaled`` says that the SQNR is the one
    after a factor a channel, because passes evened out the ranges of channels; "" when it is not.
    """

    tensor: str
    node: str
    op: str
    test_tensor: str
    test_node: str
    test_op: str
    agreement: OutputComparison
    lost_db: float
    diverged: str = ""
    scaled: str = ""


@dataclass(frozen=True)
class TensorProfile:
    """The inner tensors that two models have in common, in the reference's order of computation.

    ``computed`` counts the tensors that the reference computes; those without a counterpart are not in ``tensors``.
    ``note`` says in which form the second model was looked at.
    """

    tensors: tuple[TensorAgreement, ...]
    threshold_db: float
    samples: int
    synthetic: bool
    computed: int
    note: str = ""

    @property
    def first(self) -> TensorAgreement | None:
        """The first tensor that has diverged; None when all agree."""
        return next((t for t in self.tensors if t.diverged), None)

    @property
    def other_extents(self) -> tuple[TensorAgreement, ...]:
        """Tensors that have other extents in the second model (pruned, or not the same thing): not compared."""
        return tuple(t for t in self.tensors if t.agreement.shape_mismatches)
