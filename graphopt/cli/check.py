"""``graphopt check MODEL --target T``: will it run there, as what, and what to do where it will not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.console import Output
    from graphopt.cli.feeding import Feeding
    from graphopt.model import Model
    from graphopt.results import CheckReport, Comparison
    from graphopt.targets.base import Target
    from graphopt.targets.checks import CheckConfig


def check(
    model: args.ModelPath,
    target: args.TargetOption = "ort-cpu",
    fix: args.FixOption = False,
    out: args.FixedOption = None,
    sm: args.SmOption = None,
    symmetric: args.SymmetricOption = True,
    static: args.StaticOption = False,
    data: args.DataOption = None,
    dim: args.DimOption = None,
    samples: args.SamplesOption = None,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    strict: args.StrictOption = False,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Check whether a model runs on a target and what of it runs on integers. Exit code 6 when it will not run."""
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.errors import UsageError
    from graphopt.model import load
    from graphopt.targets import get_target
    from graphopt.targets.checks import CheckConfig

    if fix and out is None:
        raise UsageError("--fix needs -o: where to write the fixed model")
    if out is not None and not fix:
        raise UsageError("-o is only for --fix; a check writes nothing")
    if out is not None and out.exists() and not force:
        raise UsageError(f"{str(out)!r} exists; --force overwrites it")
    output, dims = args.output(json, verbose, quiet), args.parse_dims(dim)
    checked = Checked(load(model_file(model)), get_target(target), CheckConfig(dims, capabilities(sm), not static))
    feeding = Feeding(data, dims, None, samples, preprocess, seed)
    if out is None:
        end(judged(checked, output, model.name), strict)
    else:
        end(fixed(checked, output, model.name, out, feeding, symmetric, force), strict)


@dataclass(frozen=True)
class Checked:
    """A model, the target that it is checked for, and how."""

    model: Model
    target: Target
    config: CheckConfig


def judged(checked: Checked, output: Output, name: str) -> CheckReport:
    """Check and show."""
    from graphopt.report.checking import show_check
    from graphopt.targets.checks import check_model

    report = check_model(checked.model, checked.target, checked.config)
    output.show(*show_check(report, output.verbosity > 0))
    output.json({"model": name, "report": report})
    return report


def fixed(
    checked: Checked, output: Output, name: str, out: Path, feeding: Feeding, symmetric: bool, force: bool
) -> CheckReport:
    """Check, fix a copy, compare it with the model, write it, and show both; gives the report of the copy."""
    from graphopt.report.checking import fix_table, show_check
    from graphopt.report.terminal import comparison_table
    from graphopt.targets.checks import check_model
    from graphopt.transforms.legalize.fixes import Notes, legalize_model

    before = check_model(checked.model, checked.target, checked.config)
    output.show(*show_check(before, output.verbosity > 0))
    model, notes = checked.model.clone(), Notes()
    legalize_model(model, checked.target, notes, symmetric)
    after = replace(check_model(model, checked.target, checked.config), fixed=notes.remarks)
    comparison = compared(checked.model, model, feeding, output.warn)
    model.save(out, force=force)
    output.show(fix_table(notes.remarks), *show_check(after, output.verbosity > 0))
    if comparison is not None:
        output.show(comparison_table(comparison))
    output.json({"model": name, "before": before, "report": after, "comparison": comparison})
    output.say(f"wrote {out}")
    return after


def capabilities(texts: list[str] | None) -> tuple[str, ...]:
    """``86``, ``8.6`` or ``sm86`` as ``sm86``.

    Raises:
        UsageError: the builder has no such capability.
    """
    from graphopt.errors import UsageError
    from graphopt.targets.tensorrt_rtx import CAPABILITIES, DEFAULT_CAPABILITY

    found = []
    for text in texts or (DEFAULT_CAPABILITY,):
        name = "sm" + text.lower().removeprefix("sm").replace(".", "").removeprefix("_")
        if name not in CAPABILITIES:
            raise UsageError(f"--sm {text}: the builder has {', '.join(c[2:] for c in CAPABILITIES)}")
        found.append(name)
    return tuple(dict.fromkeys(found))


def compared(before: Model, after: Model, feeding: Feeding, say: Callable[[str], None]) -> Comparison | None:
    """How far the fixed model's outputs are from the original's, optimizations off; None when one does not run."""
    from graphopt.errors import GraphoptError
    from graphopt.runtime.compare import compare
    from graphopt.runtime.materialize import session_source
    from graphopt.runtime.session import Session, SessionConfig

    config = SessionConfig(optimize="off")
    try:
        with session_source(before) as one, session_source(after) as two:
            first = Session(one, config, name="the original")
            second = Session(two, config, role="result", name="the fixed model")
            return compare(first, second, feeding.open(first.interface, 4), score=False)
    except GraphoptError as error:
        say(f"outputs not compared: {error}")
        return None


def end(report: CheckReport, strict: bool) -> None:
    """Raise when the model will not run, or, with ``strict``, when anything else is wrong or could not be checked."""
    from graphopt.errors import UnsupportedError
    from graphopt.results import counted

    if not report.runs:
        first = report.errors[0]
        where = f" at {first.node}" if first.node else ""
        more = f" and {counted(len(report.errors) - 1, 'more error')}" if len(report.errors) > 1 else ""
        raise UnsupportedError(f"it will not run on {report.target}:{where} {first.message}{more}")
    if strict and (report.warnings or report.not_checked):
        first_text = report.warnings[0].message if report.warnings else report.not_checked[0]
        counts = f"{counted(len(report.warnings), 'warning')}, {counted(len(report.not_checked), 'thing')} not checked"
        raise UnsupportedError(f"--strict: {counts}: {first_text}")
