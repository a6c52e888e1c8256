"""A propagation rule for an operator that graphopt does not know, and a criterion of one's own.

    graphopt run MODEL -o OUT --plugin examples/prune_rule.py --passes prune:ratio=0.5:criterion=peak
"""

import numpy as np

from graphopt.analysis.labels import Site
from graphopt.ir import Array
from graphopt.pipeline import criterion, rule
from graphopt.transforms.prune.criteria import Slice, Statistics


@rule("com.microsoft:UnfoldTensor")
def unfold_tensor(site: Site) -> None:
    """Windows along ``dim``: that axis stays, the others pass; the last axis is the place in the window."""
    x, dim = site.axes(0), site.attr("dim", -1) % len(site.axes(0))
    site.freeze(x[dim], "(windows over it)")
    passed = [site.stuck(site.out()[dim]) if k == dim else axis for k, axis in enumerate(x)]
    site.emit([*passed, site.stuck(site.attr("size"), "(window)")])


@criterion("peak")
def peak(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Array:
    """The largest magnitude in the weights of a unit."""
    return np.asarray(abs(part.rows()).max(axis=1))
