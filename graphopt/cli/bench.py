"""``graphopt bench MODEL...``: latency of models in turns, as ratios with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import arguments as args


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files; the first is the reference.", show_default=False)],
    data: args.DataOption = None,
    provider: args.ProviderOption = None,
    rounds: Annotated[int, typer.Option(help="Rounds of measuring, at least 9.")] = 15,
    footprint: Annotated[bool, typer.Option(help="Also measure load time and peak memory, in fresh processes.")] = True,
    profile: Annotated[bool, typer.Option(help="Also list the slowest nodes.")] = False,
    dim: args.DimOption = None,
    batch: args.BatchOption = None,
    threads: args.ThreadsOption = 1,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    strict: args.StrictOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Time models against each other. A difference inside the noise is called noise."""
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.report.terminal import footprint_table, profile_table, timing_table
    from graphopt.runtime.footprint import measure_footprint
    from graphopt.runtime.profile import profile_nodes
    from graphopt.runtime.session import Session, SessionConfig
    from graphopt.runtime.timing import Contender, TimingPlan, time_models

    out = args.output(json, verbose, quiet)
    config = SessionConfig(provider or "cpu", threads, strict=strict)
    feeding = Feeding(data, args.parse_dims(dim), batch, None, preprocess, seed)
    contenders = []
    for path in models:
        session = Session(model_file(path), config)
        batch_of = next(iter(feeding.open(session.interface, 1).iter_batches(batch or 1)))
        contenders.append(Contender(path.name, session, batch_of.feeds, batch_of.rows))
    report = time_models(contenders, TimingPlan(rounds=rounds, seed=seed))
    out.show(timing_table(report))
    prints = {}
    if footprint:
        prints = {c.name: measure_footprint(p, c.feeds, config) for c, p in zip(contenders, models, strict=True)}
        out.show(footprint_table(prints, {p.name: p.stat().st_size for p in models}))
    nodes = {}
    if profile:
        nodes = {c.name: profile_nodes(p, c.feeds, config) for c, p in zip(contenders, models, strict=True)}
        for name, rows in nodes.items():
            out.show(profile_table(name, rows))
    out.json({"timing": report, "footprint": prints, "nodes": nodes})
