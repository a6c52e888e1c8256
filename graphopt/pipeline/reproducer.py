"""A failed pass as a folder or zip file that ``graphopt replay`` runs again.

It holds ``model.onnx``, the model as it entered the pass, and ``reproducer.json``: the pass with its options, seed,
target, limit, version, and the error. Calibration data is not copied; ``uses_data`` says whether there was any.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import graphopt
from graphopt.errors import BudgetError, GraphoptError, UnsupportedError, UsageError
from graphopt.model import load
from graphopt.pipeline.context import Settings
from graphopt.pipeline.instruments import Instrument, PassEvent
from graphopt.pipeline.manager import PassManager, Run
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

if TYPE_CHECKING:
    from graphopt.data.feeds import Dataset

T = TypeVar("T")
MODEL = "model.onnx"
RECORD = "reproducer.json"


@dataclass(frozen=True)
class Record:
    """What a reproducer says beside the model."""

    pipeline: str
    error: str
    seed: int
    target: str
    limit: int | None
    uses_data: bool
    version: str


class Reproducer(Instrument):
    """Writes a reproducer when a pass fails; a refusal (wrong usage, bad data, not supported) is no failure.

    ``path`` is a folder, or a file ending in ``.zip``; by default a new zip file in the working directory.
    ``arguments`` are what ``graphopt replay`` needs beside it, as typed: plugins and data.
    """

    def __init__(self, path: Path | None = None, arguments: str = "") -> None:
        self._path = path
        self._arguments = arguments
        self.written: Path | None = None

    def on_failure(self, event: PassEvent, error: Exception) -> str:
        """Write the model, which is as it was before the pass, and the record; say where, or why not."""
        if isinstance(error, UsageError | UnsupportedError | BudgetError):
            return ""
        path = self._path or _free_name(event.step.name)
        try:
            _write(path, event, _record(event, error))
        except (OSError, GraphoptError) as problem:
            return f"no reproducer could be written: {problem}"
        self.written = path
        words = self._arguments
        if not words and not event.step.__module__.startswith("graphopt."):
            words = "--plugin FILE"
        return f"a reproducer is in {path}; run: graphopt replay {shlex.quote(str(path))} {words}".rstrip()


def read_record(path: Path) -> Record:
    """The record of a reproducer.

    Raises:
        UsageError: the path holds none.
    """
    try:
        if path.is_dir():
            text = (path / RECORD).read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(RECORD).decode()
        return Record(**json.loads(text))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{str(path)!r} is not a reproducer (a folder or zip with {RECORD}): {error}") from error


def replay(
    path: Path,
    registry: Registry,
    settings: Settings | None = None,
    instruments: tuple[Instrument, ...] | None = None,
) -> Run:
    """Run a reproducer again; seed and target are those recorded. Raises what the pass raises.

    ``settings`` gives what a reproducer does not hold: data, cache folder, progress. ``registry`` must know the pass:
    load the plugin that provides it first, if it is not a built-in one.

    Raises:
        UsageError: the path is not a reproducer, or it used data and there is none.
    """
    record = read_record(path)
    used = replace(settings or Settings(), seed=record.seed, target=record.target)
    if record.uses_data and used.data is None:
        raise UsageError(f"{str(path)!r} was made with calibration data, which it does not hold; give it with --data")
    pipeline = Pipeline.parse(record.pipeline, registry)
    manager = PassManager(registry, used, instruments=instruments, limit=record.limit)
    if path.is_dir():
        return manager.run(load(path / MODEL), pipeline)
    with tempfile.TemporaryDirectory() as folder:
        _extract(path, Path(folder))
        return manager.run(load(Path(folder) / MODEL), pipeline)


def _free_name(pass_name: str) -> Path:
    names = (f"graphopt-{pass_name}{tail}.zip" for tail in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
    return next(path for path in map(Path, names) if not path.exists())


def _record(event: PassEvent, error: Exception) -> Record:
    return Record(
        pipeline=str(Pipeline((event.step,))),
        error=f"{type(error).__name__}: {error}",
        seed=event.settings.seed,
        target=event.settings.target,
        limit=event.limit,
        uses_data=event.settings.data is not None,
        version=graphopt.__version__,
    )


def _write(path: Path, event: PassEvent, record: Record) -> None:
    if path.suffix != ".zip":
        path.mkdir(parents=True, exist_ok=True)
        event.model.save(path / MODEL, force=True)
        (path / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        _write(Path(folder), event, record)
        for file in sorted(Path(folder).iterdir()):
            archive.write(file, file.name)


def _extract(path: Path, folder: Path) -> None:
    """Unpack the files of a zip, none of which may lie in a folder of its own."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if Path(member.filename).name != member.filename:
                raise UsageError(f"{str(path)!r} is not a reproducer: it holds {member.filename!r}")
            with archive.open(member) as source, open(folder / member.filename, "wb") as target:
                shutil.copyfileobj(source, target)


def open_reproducer_data(path: Path, data: str) -> Dataset:
    """Data for the model that a reproducer holds.

    Raises:
        UsageError: the path is no reproducer.
        DataError: the data does not fit the model.
    """
    from graphopt.data.interface import read_interface
    from graphopt.data.open import open_data

    return _with_model(path, lambda model: open_data(data, read_interface(model)))


def reproducer_inputs(path: Path, seed: int) -> Dataset | None:
    """Synthetic inputs for the model that a reproducer holds; None when a symbolic dim has no value.

    Raises:
        UsageError: the path is no reproducer.
    """
    from graphopt.data.interface import read_interface
    from graphopt.pipeline.job import JobData
    from graphopt.pipeline.job_data import synthetic_data

    try:
        return _with_model(path, lambda m: synthetic_data(JobData(), read_interface(m), load(m), seed))
    except UsageError:
        return None


def _with_model(path: Path, use: Callable[[Path], T]) -> T:
    read_record(path)
    if path.is_dir():
        return use(path / MODEL)
    with tempfile.TemporaryDirectory() as folder:
        _extract(path, Path(folder))
        return use(Path(folder) / MODEL)
