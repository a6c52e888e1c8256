"""``graphopt bench MODEL...``: latency of models in turns, as ratios with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.feeding import Feeding
    from graphopt.data.feeds import Feeds
    from graphopt.data.shape_profile import ShapeProfile
    from graphopt.results import NodeTime, SweepPoint
    from graphopt.runtime.openvino_session import OpenVinoSession
    from graphopt.runtime.session import Session, SessionConfig
    from graphopt.runtime.timing import TimingPlan


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files; the first is the reference.", show_default=False)],
    data: args.DataOption = None,
    provider: args.ProviderOption = None,
    runtime: Annotated[
        str, typer.Option(help="What loads the models: onnxruntime, or openvino (its CPU plugin).")
    ] = "onnxruntime",
    rounds: Annotated[int, typer.Option(help="Rounds of measuring, at least 9, over all sessions.")] = 15,
    sessions: Annotated[int, typer.Option(help="How often every model is loaded anew, at least 3.")] = 5,
    footprint: Annotated[bool, typer.Option(help="Also measure load time and peak memory, in fresh processes.")] = True,
    profile: Annotated[bool, typer.Option(help="Also list the slowest nodes.")] = False,
    dim: args.DimOption = None,
    batch: Annotated[
        str | None, typer.Option("--batch", help="Samples a run; several as 1,8,32.", show_default=False)
    ] = None,
    threads: Annotated[str, typer.Option("--threads", help="Threads inside one operator; several as 1,2,4.")] = "1",
    provider_option: args.ProviderOptionsOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder where providers that compile keep engines and timings.", show_default=False),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(help="Write the first model with its compiled engine inside to this file.", show_default=False),
    ] = None,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    strict: args.StrictOption = False,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Time models against each other. A difference inside the noise is called noise.

    Models are loaded anew several times and take turns; the interval of a ratio covers what changes from load to load.
    """
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.data.shape_profile import ShapeProfile
    from graphopt.errors import UsageError
    from graphopt.report.timing import footprint_table, profile_table, sweep_table, timing_items
    from graphopt.runtime.footprint import measure_footprint
    from graphopt.runtime.session import SessionConfig
    from graphopt.runtime.timing import TimingPlan

    out = args.output(json, verbose, quiet)
    if runtime not in ("onnxruntime", "openvino"):
        raise UsageError(f"--runtime {runtime}: it is onnxruntime or openvino")
    if runtime == "openvino" and (provider or provider_option):
        raise UsageError("--provider belongs to onnxruntime; --runtime openvino runs on its CPU plugin")
    files = {name: model_file(path) for name, path in distinct(models).items()}
    dims = args.parse_dims(dim)
    plan = TimingPlan(rounds=rounds, sessions=sessions)
    points: list[SweepPoint] = []
    sizes: list[int | None] = [*numbers("--batch", batch)] if batch else [None]
    feeding = Feeding(data, dims, None, None, preprocess, seed)
    base = SessionConfig(
        provider or "cpu",
        strict=strict,
        provider_options=args.parse_provider_options(provider_option),
        cache_dir=cache,
        shapes=shapes_of(files, feeding, sizes) if provider and provider != "cpu" else ShapeProfile(),
    )
    if context is not None:
        write_context(next(iter(files.values())), replace(base, context_path=context), force, out.say)
    for count in numbers("--threads", threads):
        for size in sizes:
            config = replace(base, threads=count)
            points.append(measure(files, replace(feeding, batch=size), size, config, runtime, plan))
            out.show(*timing_items(points[-1]))
    if len(points) > 1:
        out.show(sweep_table(points))
    config = replace(base, threads=points[0].timing.threads)
    feeds = {name: one_feed(replace(feeding, batch=points[0].batch), path) for name, path in files.items()}
    prints = {}
    if footprint and runtime == "onnxruntime":
        prints = {name: measure_footprint(path, feeds[name], config) for name, path in files.items()}
        out.show(footprint_table(prints, {name: path.stat().st_size for name, path in files.items()}))
    nodes = {}
    if profile and runtime == "onnxruntime":
        nodes = {name: profiled(path, feeds[name], config) for name, path in files.items()}
        for name, rows in nodes.items():
            out.show(profile_table(name, rows))
    out.json({"timing": points[0].timing, "sweep": points, "footprint": prints, "nodes": nodes})


def distinct(models: list[Path]) -> dict[str, Path]:
    """A name for each file: its own, with its folder where two have the same."""
    names = [path.name for path in models]
    chosen = [path.name if names.count(path.name) == 1 else str(path) for path in models]
    found: dict[str, Path] = {}
    for name, path in zip(chosen, models, strict=True):
        found[name if name not in found else f"{name} ({len(found) + 1})"] = path
    return found


def numbers(option: str, text: str) -> list[int]:
    """``1,8,32`` as numbers.

    Raises:
        UsageError: not of that form.
    """
    from graphopt.errors import UsageError

    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text}: it must be a whole number from 1, or several as 1,8,32")
    return [int(part) for part in parts]


def measure(
    files: Mapping[str, Path],
    feeding: Feeding,
    batch: int | None,
    config: SessionConfig,
    runtime: str,
    plan: TimingPlan,
) -> SweepPoint:
    """Time the models with one batch size and number of threads."""
    from graphopt.results import SweepPoint
    from graphopt.runtime.openvino_session import OpenVinoSession
    from graphopt.runtime.session import Session
    from graphopt.runtime.timing import Contender, time_models

    def opened(path: Path) -> Session | OpenVinoSession:
        return OpenVinoSession(path, config.threads) if runtime == "openvino" else Session(path, config)

    contenders = []
    for name, path in files.items():
        session = opened(path)
        feeds, rows = feeding.timed(session.interface, batch)
        contenders.append(Contender(name, session, feeds, rows, lambda path=path: opened(path)))  # type: ignore[misc]
    return SweepPoint(batch, config.threads, time_models(contenders, plan))


def shapes_of(files: Mapping[str, Path], feeding: Feeding, sizes: Sequence[int | None]) -> ShapeProfile:
    """Shapes that cover every batch size that is timed, from the feeds of the first model."""
    from graphopt.data.interface import read_interface
    from graphopt.data.shape_profile import profile_of_feeds

    interface = read_interface(next(iter(files.values())))
    runs = [replace(feeding, batch=size).timed(interface, size)[0] for size in sizes]
    return profile_of_feeds(interface, runs)


def write_context(path: Path, config: SessionConfig, force: bool, say: Callable[[str], None]) -> None:
    """Write a model with its compiled engine inside.

    Raises:
        UsageError: the file exists.
        UnsupportedError: the provider compiles nothing.
    """
    from graphopt.errors import UnsupportedError, UsageError
    from graphopt.runtime.session import Session

    target = config.context_path
    assert target is not None
    if target.exists() and not force:
        raise UsageError(f"{str(target)!r} exists; --force overwrites it")
    if config.provider in ("cpu", "cuda"):
        raise UnsupportedError(f"--context: provider {config.provider!r} compiles no engine")
    Session(path, config)
    say(f"wrote {target}")


def one_feed(feeding: Feeding, path: Path) -> Feeds:
    """The feeds that a model is timed with."""
    from graphopt.data.interface import read_interface

    return feeding.timed(read_interface(path), feeding.batch)[0]


def profiled(path: Path, feeds: Feeds, config: SessionConfig) -> tuple[NodeTime, ...]:
    """Time per kernel, joined to the nodes of the file where the provider leaves kernels that can be told apart."""
    from graphopt.analysis.node_profile import profile_model
    from graphopt.model import load
    from graphopt.runtime.profile import profile_nodes

    if config.provider != "cpu":
        return profile_nodes(path, feeds, config)
    return profile_model(load(path), feeds, config)
