"""Even out channel ranges before quantization, in float and without changing the function."""

from __future__ import annotations

from graphopt.errors import DataError
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Pass


class EqualizeOptions(Options):
    """Options of ``equalize``."""

    smooth: bool = option(
        False, "Also put a Mul in front of matrix products whose input nothing in front of it can rescale."
    )
    samples: int = option(64, "Calibration samples that channel ranges are taken from.", ge=1)


class Equalize(Pass[EqualizeOptions]):
    """Rescales channels between layers so that one scale for a whole tensor suits all of its channels.

    Cross-layer equalization (Nagel et al. 2019) between convolutions and matrix products, SmoothQuant (Xiao et al.
    2022) behind normalizations. What the model computes stays the same. ``quantize`` does this itself where it lowers
    the noise on held-back samples; the pass alone goes by a model of the noise.
    """

    guarantee = "equivalent"
    requires = frozenset({"data", "float"})

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.equalization``."""
        from graphopt.data.split import subsample
        from graphopt.transforms.quantize.equalization import equalize, find_links, find_smoothable, plan_equalization

        if ctx.settings.data is None:
            raise DataError("equalize needs calibration data; give it with --data")
        data = subsample(ctx.settings.data, self.options.samples, ctx.settings.seed)
        links = find_links(model.graph)
        smoothable = find_smoothable(model.graph, links) if self.options.smooth else []
        for evening in plan_equalization(model, data, [*links, *smoothable]):
            tensor = evening.link.tensor
            if ctx.allow(tensor, "equalize"):
                equalize(model.graph, evening.link, evening.factors)
                ctx.did(tensor, f"channels rescaled, expected noise of 8 bits down {evening.gain:.1f} times")
                ctx.count("tensors equalized")
        model.graph.sort()
        model.graph.remove_dead()
