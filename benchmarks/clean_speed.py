"""Is a cleaned graph ever slower in ONNX Runtime? Original and cleaned, timed in turns, optimizations on.

    python benchmarks/clean_speed.py [--match '*'] [--min-macs 10e6] [--part 1/4] [--passes cleanup] [--records FILE]
    python benchmarks/clean_speed.py --merge FILE... --out benchmarks/results/clean_speed.md

One thread, the zoo's graphs with seeded weights. "Slower" is graphopt's own verdict: the interval of the ratio lies
under 0.97 on the wall clock, the processor clock does not contradict it, and a second run agrees.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.zoo import ZOO, Record, graphs, keep, options_of, read, show, zoo_module  # noqa: E402
from graphopt import load  # noqa: E402
from graphopt.pipeline import PassManager, Pipeline, Registry  # noqa: E402
from graphopt.runtime.cpu import cpu_info  # noqa: E402
from graphopt.runtime.session import Session, SessionConfig  # noqa: E402
from graphopt.runtime.timing import Contender, TimingPlan, time_models  # noqa: E402


def measure(file: str, passes: str, rounds: int) -> Record:
    """Time one graph against what the passes make of it."""
    zoo, registry = zoo_module(), Registry()
    proto = zoo.fill(str(ZOO / file))
    model = load(proto)
    PassManager(registry).run(model, Pipeline.parse(passes, registry))
    config = SessionConfig(threads=1)
    contenders = []
    for name, data in (("before", proto.SerializeToString()), ("after", model.serialize())):
        session = Session(data, config, name=f"{file} {name}")
        wanted = {i.name for i in session.interface.inputs}
        feeds = {k: v for k, v in zoo.random_inputs(proto, 1).items() if k in wanted}
        contenders.append(Contender(name, session, feeds))
    before, after = time_models(contenders, TimingPlan(rounds=rounds, round_ms=30)).timings
    assert after.speedup is not None
    ratio = after.speedup
    record: Record = {"file": file, "passes": passes, "before_ms": before.wall_ms, "after_ms": after.wall_ms}
    record |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": after.verdict}
    return record


def table(records: list[Record]) -> str:
    """Markdown: the verdicts, then a row for each graph, the slowest change first."""
    verdicts = [r["verdict"] for r in records]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("faster", "same", "noise", "slower"))
    mean = math.exp(sum(math.log(r["ratio"]) for r in records) / len(records))
    lines = [f"{len(records)} graphs on {cpu_info().model}, one thread: {counts}. Geometric mean {mean:.3f}x.", ""]
    lines += ["| graph | before, ms | after, ms | before / after | interval | verdict |", "|---|---|---|---|---|---|"]
    for r in sorted(records, key=lambda r: float(r["ratio"])):
        name = r["file"].removesuffix(".gz").removesuffix(".onnx")
        span = f"{r['low']:.3f} to {r['high']:.3f}"
        lines.append(
            f"| {name} | {r['before_ms']:.2f} | {r['after_ms']:.2f} | {r['ratio']:.3f} | {span} | {r['verdict']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Make records, or a table from them."""
    parser = options_of(__doc__, "clean_speed.jsonl")
    parser.add_argument("--min-macs", type=float, default=10e6)
    parser.add_argument("--passes", default="cleanup")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not options.merge:
        index = json.loads((ZOO / "index.json").read_text())
        heavy = {entry["file"] for entry in index if (entry["macs"] or 0) > options.min_macs}
        done = {(r["file"], r["passes"]) for r in read(options.records)}
        for file in (f for f in graphs(options.match, options.part, 0) if f in heavy):
            if (file, options.passes) not in done:
                keep(options.records, measure(file, options.passes, options.rounds))
    records = [r for path in options.merge or [options.records] for r in read(path)]
    show(table(records) if records else "no records\n", options.out)


if __name__ == "__main__":
    main()
