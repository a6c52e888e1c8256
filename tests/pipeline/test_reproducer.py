"""Reproducers: written on failure, replayed from folders and zip files, refused when they are none."""

from __future__ import annotations

import json
import zipfile

import pytest

from graphopt.errors import PassError, UsageError
from graphopt.pipeline import PassManager, Pipeline, Settings
from graphopt.pipeline.reproducer import Reproducer, read_record, replay

TEXT = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { a = Identity(x) b = Relu(a) y = Neg(b) }'
)


def fail(model, registry, path, text: str = "drop_identity,crash", **kwargs) -> Reproducer:
    instrument = Reproducer(path)
    manager = PassManager(registry, Settings(seed=7, target="tensorrt"), instruments=[instrument], **kwargs)
    with pytest.raises(PassError) as caught:
        manager.run(model, Pipeline.parse(text, registry))
    assert str(caught.value).endswith(
        f"a reproducer is in {instrument.written}; run: graphopt replay {instrument.written} --plugin FILE"
    )
    return instrument


@pytest.mark.parametrize("name", ["folder", "file.zip"])
def test_the_model_as_it_entered_the_pass_is_kept_and_replayed(parse, registry, tmp_path, name) -> None:
    path = tmp_path / "new" / name
    fail(parse(TEXT), registry, path)
    record = read_record(path)
    assert (record.pipeline, record.seed, record.target, record.uses_data) == ("crash", 7, "tensorrt", False)
    assert record.error == "RuntimeError: boom"
    with pytest.raises(PassError, match="pass 'crash' failed: RuntimeError: boom"):
        replay(path, registry)


def test_a_mended_pass_replays_to_a_result(parse, registry, tmp_path, monkeypatch, sample) -> None:
    fail(parse(TEXT), registry, tmp_path / "r")
    monkeypatch.setattr(sample.Crash, "run", lambda self, model, ctx: None)
    run = replay(tmp_path / "r", registry)
    assert [n.op for n in run.model.graph.nodes] == ["Relu", "Neg"], "drop_identity ran before"


def test_the_limit_that_is_left_is_recorded(parse, registry, tmp_path) -> None:
    fail(parse(TEXT), registry, tmp_path / "r", limit=5)
    assert read_record(tmp_path / "r").limit == 4


def test_the_default_name_is_free(parse, registry, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        fail(parse(TEXT), registry, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graphopt-crash-2.zip", "graphopt-crash.zip"]


def test_a_refusal_writes_nothing(parse, registry, tmp_path, monkeypatch, sample) -> None:
    def refuse(self, model, ctx) -> None:
        raise UsageError("not like this")

    monkeypatch.setattr(sample.Crash, "run", refuse)
    with pytest.raises(UsageError, match="pass 'crash': not like this"):
        PassManager(registry, instruments=[Reproducer(tmp_path / "r")]).run(
            parse(TEXT), Pipeline.parse("crash", registry)
        )
    assert not (tmp_path / "r").exists()


def test_a_place_that_cannot_be_written_does_not_hide_the_error(parse, registry, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PassError, match=r"boom\nno reproducer could be written: "):
        PassManager(registry, instruments=[Reproducer(tmp_path / "file" / "r")]).run(
            parse(TEXT), Pipeline.parse("crash", registry)
        )


def test_data_must_be_given_again(parse, registry, tmp_path) -> None:
    fail(parse(TEXT), registry, tmp_path / "r")
    record = json.loads((tmp_path / "r" / "reproducer.json").read_text())
    (tmp_path / "r" / "reproducer.json").write_text(json.dumps({**record, "uses_data": True}))
    with pytest.raises(UsageError, match="made with calibration data, which it does not hold; give it with --data"):
        replay(tmp_path / "r", registry)


def test_what_is_no_reproducer_is_refused(registry, tmp_path) -> None:
    with pytest.raises(UsageError, match="is not a reproducer"):
        replay(tmp_path, registry)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UsageError, match="is not a reproducer"):
        replay(tmp_path / "text.zip", registry)


def test_a_zip_that_reaches_out_is_refused(parse, registry, tmp_path) -> None:
    fail(parse(TEXT), registry, tmp_path / "r.zip")
    with zipfile.ZipFile(tmp_path / "r.zip", "a") as archive:
        archive.writestr("../evil", "x")
    with pytest.raises(UsageError, match=r"it holds '../evil'"):
        replay(tmp_path / "r.zip", registry)
    assert not (tmp_path.parent / "evil").exists()
