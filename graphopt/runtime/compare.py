"""Compare two models on the same data, in one pass over it."""

from __future__ import annotations

from graphopt.data.feeds import Dataset
from graphopt.errors import UsageError
from graphopt.results import Comparison
from graphopt.runtime.agreement import Agreement
from graphopt.runtime.evaluate import TopOne
from graphopt.runtime.session import Runner


def compare(
    reference: Runner, test: Runner, data: Dataset, *, batch: int | None = None, score: bool = True
) -> Comparison:
    """Run both models on every sample and give the agreement of each output.

    Where the data has labels and an output fits them, top-1 accuracy of both comes with it, and the paired
    interval of their difference; not without ``score``. Memory does not depend on the number of samples.

    Raises:
        UsageError: the outputs do not correspond.
        DataError: the labels are no classes of the output that they fit.
    """
    pairs = pair_outputs(reference, test)
    agreements = {name: Agreement(name) for name in pairs}
    top_one = TopOne() if score and data.labelled else None
    samples = 0
    for part in data.iter_batches(batch):
        before = part.trim_outputs(reference.run(part.feeds))
        after = part.trim_outputs(test.run(part.feeds))
        samples += part.valid
        for name, other in pairs.items():
            agreements[name].add(before[name], after[other])
        if top_one is not None and part.labels is not None:
            top_one.add(part.labels, before, {name: after[other] for name, other in pairs.items()})
    outputs = tuple(agreement.result() for agreement in agreements.values())
    return Comparison(
        outputs=outputs,
        samples=samples,
        finite=not any(output.new_non_finite for output in outputs),
        synthetic=data.synthetic,
        accuracy=None if top_one is None else top_one.result(),
    )


def pair_outputs(reference: Runner, test: Runner) -> dict[str, str]:
    """Match outputs by name, or by position when the names differ but the numbers agree."""
    first = [info.name for info in reference.interface.outputs]
    second = [info.name for info in test.interface.outputs]
    if set(first) == set(second):
        return {name: name for name in first}
    if len(first) != len(second):
        raise UsageError(f"the models have different outputs: {', '.join(first)} and {', '.join(second)}")
    return dict(zip(first, second, strict=True))
