"""Runs a pipeline on a model: verified after every pass, rolled back on failure, recorded in results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphopt.analysis.parameters import count_parameters
from graphopt.errors import GraphoptError, PassError, UnsupportedError
from graphopt.graph import Graph
from graphopt.ir import Constant
from graphopt.model import Model
from graphopt.pipeline.analyses import Analyses
from graphopt.pipeline.budget import Application, Budget
from graphopt.pipeline.context import Context, RunState, Settings
from graphopt.pipeline.fingerprint import Fingerprint
from graphopt.pipeline.instruments import Instrument, PassEvent, Verify
from graphopt.pipeline.origin import Origins
from graphopt.pipeline.passes import Composite, Guarantee, weakest
from graphopt.pipeline.pipeline import Pipeline, Plan, expand
from graphopt.pipeline.provenance import stamp
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.rollback import Checkpoint
from graphopt.results import GraphStats, PassResult, Remark

Measure = Callable[[Model], GraphStats]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        model: the model that was given, changed in place.
        passes: a result for each pass of the pipeline.
        reference: the model that entered the first lossy pass, or None when there was none.
        origins: how the tensors of ``model`` follow from those of ``reference``.
        applied: every rewrite that was applied, in order.
        denied: rewrites that ``limit`` held back.
    """

    model: Model
    passes: tuple[PassResult, ...]
    reference: Model | None
    origins: Origins
    applied: tuple[Application, ...]
    denied: tuple[Application, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(p.changed for p in self.passes)


class PassManager:
    """Runs pipelines.

    Args:
        registry: where composites find their passes.
        settings: target, seed, data, cache folder, progress.
        instruments: what watches the run; by default ``Verify()``. Called in this order.
        limit: apply only the first this many rewrites.
        measure: size of a model for the results; by default node, parameter and byte counts.
        check_reports: look at the model too when a pass says by itself whether it changed it; fail if it was wrong.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings | None = None,
        *,
        instruments: Sequence[Instrument] | None = None,
        limit: int | None = None,
        measure: Measure | None = None,
        check_reports: bool = False,
    ) -> None:
        self._registry = registry
        self._settings = settings or Settings()
        self._instruments = (Verify(),) if instruments is None else tuple(instruments)
        self._limit = limit
        self._measure = measure or graph_stats
        self._check_reports = check_reports

    def plan(self, pipeline: Pipeline) -> tuple[Plan, ...]:
        """What a run would do: composites expanded, order and requirements checked. Runs nothing.

        Raises:
            UsageError: the passes do not fit together, or one of them needs data and there is none.
        """
        return expand(pipeline, self._registry, self._settings.data is not None)

    def run(self, model: Model, pipeline: Pipeline, budget: Budget | None = None) -> Run:
        """Run the pipeline on ``model``, in place. ``budget`` counts the rewrites; by default a new one with ``limit``.

        Raises:
            UsageError: the passes do not fit together.
            PassError: a pass failed. The model is as it was before that pass; results of earlier passes stand.
            GraphoptError: a pass refused, with the class of its refusal.
        """
        plans = self.plan(pipeline)
        if model.training_info and plans:
            raise UnsupportedError(
                "the model holds training information, which passes would make wrong; remove it first"
            )
        state = RunState(self._settings, budget or Budget(self._limit), Analyses(model), registry=self._registry)
        if any(step.quantizes for plan in plans for step in plan.leaves()):
            state.precision = "int8"
        worker = _Worker(model, state, self._instruments, self._measure, self._check_reports)
        results = tuple(worker.guarded(plan, index) for index, plan in enumerate(plans))
        changing = [plan.step for plan, result in zip(plans, results, strict=True) if result.changed]
        if changing:
            stamp(model, Pipeline(tuple(changing)), self._settings)
        applied, denied = tuple(state.budget.applied), state.budget.denied
        return Run(model, results, state.reference, state.origins, applied, denied)


class _Worker:
    """Runs the passes of one run."""

    def __init__(
        self,
        model: Model,
        state: RunState,
        instruments: Sequence[Instrument],
        measure: Measure,
        check_reports: bool,
    ) -> None:
        self._model = model
        self._state = state
        self._instruments = instruments
        self._measure = measure
        self._check_reports = check_reports
        self._print: Fingerprint | None = None
        self._version = 0
        self._sized_version = 0
        self._sizes: dict[Measure, GraphStats] = {}

    def guarded(self, plan: Plan, index: int) -> PassResult:
        """Run a pass of the pipeline; put the model back if it fails or is interrupted."""
        checkpoint = Checkpoint(self._model, self._state)
        event = replace(self._event(plan, index, 0), entered=checkpoint)
        try:
            return self._watched(plan, event)
        except Exception as error:  # user code may raise anything; it is named and passed on
            checkpoint.restore()
            said = [instrument.on_failure(event, error) for instrument in self._instruments]
            raise _named(plan.step.name, error, [text for text in said if text]) from error
        except BaseException:
            checkpoint.restore()
            raise

    def _watched(self, plan: Plan, event: PassEvent) -> PassResult:
        start = time.perf_counter()
        before = self._size(event.depth)
        for instrument in self._instruments:
            instrument.before_pass(event)
        result = self._rounds(plan, event) if plan.inner or isinstance(plan.step, Composite) else self._leaf(plan)
        evidence = [instrument.after_pass(event, result.changed) for instrument in self._instruments]
        return replace(
            result,
            seconds=time.perf_counter() - start,
            before=before,
            after=self._size(event.depth) if result.changed else before,
            verification="; ".join(e for e in evidence if e),
        )

    def _leaf(self, plan: Plan) -> PassResult:
        step, state = plan.step, self._state
        if step.effective_guarantee() == "lossy" and state.reference is None:
            self._set_reference()
        ctx = Context(step.name, state)
        checkpoint = Checkpoint(self._model, state) if state.budget.exhausted else None
        entered = None if step.reports and not self._check_reports else self._fingerprint()
        for name, pattern in step.options.patterns():
            if not any(map(pattern.matches, self._model.graph.walk())):
                ctx.warn(None, f"{name}: {str(pattern)!r} picks no node of the model")
        step.run(self._model, ctx)
        changed = self._settle(entered) if not step.reports else self._reported(step.name, ctx.changed, entered)
        if changed and not ctx.asked and not state.budget.take(Application(step.name, "", "")):
            assert checkpoint is not None
            checkpoint.restore()
            self._print, changed = entered, False
        if changed:
            state.analyses.keep(step.preserves)
        return self._result(plan, changed, ctx.statistics, ctx.remarks)

    def _rounds(self, plan: Plan, event: PassEvent) -> PassResult:
        """Run the passes of a composite, once or to a fixed point.

        A pass that changed nothing is not run again before something else changed the model.
        """
        step = plan.step
        assert isinstance(step, Composite)
        sums: dict[int, PassResult] = {}
        settled: dict[int, int] = {}
        rounds = 0
        warning: tuple[Remark, ...] = ()
        while True:
            rounds += 1
            for place, inner in enumerate(plan.inner):
                if settled.get(place) == self._version:
                    continue
                result = self._inner(inner, self._event(inner, place, event.depth + 1))
                sums[place] = _sum(sums[place], result) if place in sums else result
                if not result.changed:
                    settled[place] = self._version
            if not step.fixed_point or all(settled.get(place) == self._version for place in range(len(plan.inner))):
                break
            if rounds == step.max_rounds:
                text = f"stopped after {rounds} rounds, and the last one still changed the model"
                warning = (Remark("warning", step.name, "", text),)
                break
        remarks = (*(r for result in sums.values() for r in result.remarks), *warning)
        statistics: dict[str, float] = {"rounds": rounds} if step.fixed_point else {}
        for result in sums.values():
            for name, amount in result.statistics.items():
                statistics[name] = statistics.get(name, 0) + amount
        changed = any(r.changed for r in sums.values())
        return replace(self._result(plan, changed, statistics, remarks), inner=tuple(sums.values()))

    def _inner(self, plan: Plan, event: PassEvent) -> PassResult:
        """Run a pass inside a composite; the error that leaves it names it."""
        try:
            return self._watched(plan, event)
        except Exception as error:  # as in guarded; the composite is put back there
            raise _named(plan.step.name, error, ()) from error

    def _fingerprint(self) -> Fingerprint:
        """That of the model as it is now."""
        if self._print is None:
            self._print = Fingerprint(self._model)
        return self._print

    def _settle(self, before: Fingerprint | None) -> bool:
        """Adopt what the pass made by hand, sort, and say whether anything changed."""
        if Fingerprint(self._model) == before:
            return False
        self._model.graph.adopt()
        self._model.graph.sort()
        self._print = None
        self._version += 1
        return True

    def _reported(self, name: str, changed: bool, before: Fingerprint | None) -> bool:
        """Take note of what a pass said about itself; with ``before``, look whether it is so."""
        if before is not None and (Fingerprint(self._model) != before) != changed:
            said, did = ("a", "no") if changed else ("no", "a")
            raise PassError(f"{name} reported {said} change of the model, and there is {did} change")
        if changed:
            self._print = None
            self._version += 1
        return changed

    def _size(self, depth: int) -> GraphStats:
        """Size of the model now, measured once for each state; only counted between the passes of a composite."""
        if self._version != self._sized_version:
            self._sizes.clear()
            self._sized_version = self._version
        measure = self._measure if depth == 0 else graph_stats
        if measure not in self._sizes:
            self._sizes[measure] = measure(self._model)
        return self._sizes[measure]

    def _set_reference(self) -> None:
        state = self._state
        state.reference = self._model.clone()
        state.reference_analyses = Analyses(state.reference)
        names = {name for graph in state.reference.graph.graphs() for name in graph.tensors()}
        state.origins = Origins(names)

    def _event(self, plan: Plan, index: int, depth: int) -> PassEvent:
        budget = self._state.budget
        limit = None if budget.limit is None else budget.limit - len(budget.applied)
        return PassEvent(index, depth, plan.step, guarantee(plan), self._model, self._state.settings, limit)

    def _result(
        self, plan: Plan, changed: bool, statistics: dict[str, float], remarks: tuple[Remark, ...]
    ) -> PassResult:
        options = str(plan.step.step()).partition(":")[2]
        nothing = GraphStats(0, 0, 0)
        return PassResult(plan.step.name, options, guarantee(plan), changed, 0.0, nothing, nothing, statistics, remarks)


def guarantee(plan: Plan) -> Guarantee:
    """What a pass promises under its options; for a composite, the weakest promise inside it."""
    return weakest([step.effective_guarantee() for step in plan.leaves()])


def graph_stats(model: Model) -> GraphStats:
    """Nodes other than ``Constant``, parameters, and bytes of initializers and of tensors in ``Constant`` nodes."""
    nodes = size = 0
    for graph in model.graph.graphs():
        tensors = [*graph.initializers, *_constants(graph)]
        nodes += sum(not n.is_op("Constant") for n in graph.nodes)
        size += sum(int(t.nbytes) for t in tensors)
    return GraphStats(nodes, count_parameters(model.graph), size)


def _constants(graph: Graph) -> list[Constant]:
    return [v for n in graph.nodes if n.is_op("Constant") for v in n.attrs.values() if isinstance(v, Constant)]


def _sum(first: PassResult, second: PassResult) -> PassResult:
    """Two rounds of one pass as one result."""
    statistics = dict(first.statistics)
    for name, amount in second.statistics.items():
        statistics[name] = statistics.get(name, 0) + amount
    pairs = zip(first.inner, second.inner, strict=True)
    return replace(
        first,
        changed=first.changed or second.changed,
        seconds=first.seconds + second.seconds,
        after=second.after,
        statistics=statistics,
        remarks=tuple(dict.fromkeys((*first.remarks, *second.remarks))),
        inner=tuple(_sum(a, b) for a, b in pairs),
    )


def _named(name: str, error: Exception, more: Sequence[str]) -> GraphoptError:
    """The error with the pass named and what the instruments said; what is not ours becomes a PassError."""
    if isinstance(error, GraphoptError):
        named = type(error).__new__(type(error))
        vars(named).update(vars(error))
        named.args = ("\n".join([f"pass {name!r}: {str(error).removeprefix(f'{name}: ')}", *more]),)
        return named
    return PassError("\n".join([f"pass {name!r} failed: {type(error).__name__}: {error}", *more]))
