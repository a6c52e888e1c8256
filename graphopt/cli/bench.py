"""``graphopt bench MODEL...``: latency of models in turns, as ratios with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.console import Output
    from graphopt.cli.feeding import Feeding
    from graphopt.data.feeds import Feeds
    from graphopt.data.shape_profile import ShapeProfile
    from graphopt.results import NodeTime, SweepPoint
    from graphopt.runtime.openvino_session import OpenVinoSession
    from graphopt.runtime.session import Session, SessionConfig
    from graphopt.runtime.timing import TimingPlan


def bench(
    models: args.ModelPaths,
    data: args.DataOption = None,
    provider: args.ProviderOption = None,
    runtime: args.RuntimeOption = "onnxruntime",
    rounds: args.RoundsOption = 15,
    sessions: args.SessionsOption = 5,
    footprint: args.FootprintOption = True,
    profile: args.ProfileOption = False,
    dim: args.DimOption = None,
    batch: args.BatchesOption = None,
    threads: args.ThreadCountsOption = "1",
    provider_option: args.ProviderOptionsOption = None,
    cache: args.EngineCacheOption = None,
    context: args.ContextOption = None,
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
    from graphopt.errors import UsageError
    from graphopt.runtime.session import SessionConfig
    from graphopt.runtime.timing import TimingPlan

    if runtime not in ("onnxruntime", "openvino"):
        raise UsageError(f"--runtime {runtime}: it is onnxruntime or openvino")
    if runtime == "openvino" and (provider or provider_option):
        raise UsageError("--provider belongs to onnxruntime; --runtime openvino runs on its CPU plugin")
    out = args.output(json, verbose, quiet)
    files = {name: model_file(path) for name, path in distinct(models).items()}
    feeding = Feeding(data, args.parse_dims(dim), None, None, preprocess, seed)
    options = args.parse_provider_options(provider_option)
    config = SessionConfig(provider or "cpu", strict=strict, provider_options=options, cache_dir=cache)
    sizes: list[int | None] = [*numbers("--batch", batch)] if batch else [None]
    grid = Grid(sizes, numbers("--threads", threads), runtime, TimingPlan(rounds=rounds, sessions=sessions))
    if config.provider != "cpu":
        config = replace(config, shapes=shapes_of(files, feeding, sizes))
    if context is not None:
        write_context(next(iter(files.values())), replace(config, context_path=context), force, out.say)
    timed(files, feeding, config, grid, footprint, profile, out)


@dataclass(frozen=True)
class Grid:
    """What is timed: every batch size with every number of threads."""

    sizes: Sequence[int | None]
    threads: Sequence[int]
    runtime: str
    plan: TimingPlan


def timed(
    files: Mapping[str, Path],
    feeding: Feeding,
    base: SessionConfig,
    grid: Grid,
    footprint: bool,
    profile: bool,
    out: Output,
) -> None:
    """Time the models over the grid; then, at its first point, memory and kernels. Show it all."""
    from graphopt.report.timing import footprint_table, profile_table, sweep_table, timing_items
    from graphopt.runtime.footprint import measure_footprint

    points: list[SweepPoint] = []
    for count in grid.threads:
        for size in grid.sizes:
            config = replace(base, threads=count)
            points.append(measure(files, replace(feeding, batch=size), size, config, grid.runtime, grid.plan))
            out.show(*timing_items(points[-1]))
    if len(points) > 1:
        out.show(sweep_table(points))
    config = replace(base, threads=points[0].timing.threads)
    feeds = {name: one_feed(replace(feeding, batch=points[0].batch), path) for name, path in files.items()}
    prints, nodes = {}, {}
    if footprint and grid.runtime == "onnxruntime":
        prints = {name: measure_footprint(path, feeds[name], config) for name, path in files.items()}
        out.show(footprint_table(prints, {name: path.stat().st_size for name, path in files.items()}))
    if profile and grid.runtime == "onnxruntime":
        nodes = {name: profiled(path, feeds[name], config) for name, path in files.items()}
        out.show(*(profile_table(name, rows) for name, rows in nodes.items()))
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
