"""Make the graph as small as it can be without changing what it computes."""

from __future__ import annotations

from typing import Literal

from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Composite, Guarantee


class CleanupOptions(Options):
    """Options of ``cleanup``."""

    guarantee: Literal["exact", "equivalent"] = option(
        "equivalent", "exact: only rewrites that keep every output bit for bit; equivalent: all of them."
    )
    limit_kb: int = option(1024, "A folded value may be this many kB larger than the constants it replaces.", ge=0)
    growth_kb: int = option(
        8192, "When all folded values together grow the file by more kB than this, only small ones are folded.", ge=0
    )
    keep_gelu: bool = option(True, "Keep GELUs whole, which runtimes run faster; false leaves fewer nodes.")


class Cleanup(Composite[CleanupOptions]):
    """Runs the clean-up passes until none of them finds anything more.

    Shape arithmetic and constants are folded first, so that the passes after them meet a small graph.
    """

    fixed_point = True

    def effective_guarantee(self) -> Guarantee:
        """As the option says."""
        return self.options.guarantee

    def pipeline(self) -> str:
        """The passes, in order."""
        kind = f":guarantee={self.options.guarantee}"
        folding = f"fold_constants{kind}:limit_kb={self.options.limit_kb}:growth_kb={self.options.growth_kb}"
        return ",".join(
            [
                "inline_functions",
                "remove_dead",
                "fold_shapes",
                folding,
                "fold_if",
                f"eliminate_identity{kind}",
                f"merge_consecutive{kind}",
                "eliminate_common",
                f"sink_reshape{kind}",
                f"sink_transpose{kind}",
                f"fold_batchnorm{kind}:keep_gelu={str(self.options.keep_gelu).lower()}",
                f"fold_pad{kind}",
                f"fuse_gemm{kind}",
            ]
        )
