"""Text, TOML, YAML, overrides and Python objects say the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.pipeline import Pattern, PatternMap, Pipeline
from graphopt.pipeline.overrides import apply_overrides
from graphopt.pipeline.recipe import from_toml, from_yaml, read_recipe, to_toml, to_yaml

TEXT = 'tidy,scale:factor=0.5:share=0.25:factors=/a/*@0.3+"op=Conv"@0.5:skip=a+re=b:cap=64000000:word=none:loud=true'

TOML = """
[[passes]]
pass = "tidy"

[[passes]]
pass = "scale"
factor = 0.5
share = "25%"
factors = {"/a/*" = 0.3, "op=Conv" = 0.5}
skip = ["a", "re=b"]
cap = "64MB"
word = "none"
loud = true
"""

YAML = """
passes:
  - tidy
  - scale:
      factor: 0.5
      share: 25%
      factors: {"/a/*": 0.3, "op=Conv": 0.5}
      skip: [a, re=b]
      cap: 64MB
      word: null
      loud: true
"""


def test_all_forms_agree(registry, sample) -> None:
    options = sample.ScaleOptions(
        factor=0.5,
        share=0.25,
        factors=PatternMap([(Pattern("/a/*"), 0.3), (Pattern("op=Conv"), 0.5)]),
        skip=(Pattern("a"), Pattern("re=b")),
        cap=64_000_000,
        word=None,
        loud=True,
    )
    python = Pipeline((sample.Tidy(), sample.Scale(options)))
    assert Pipeline.parse(TEXT, registry) == python
    assert from_toml(TOML, registry) == python
    assert from_yaml(YAML, registry) == python
    assert from_yaml("passes: ['" + TEXT.replace("'", "''") + "']", registry) == python


def test_an_item_may_be_pipeline_text(registry) -> None:
    pipeline = from_yaml("passes: [tidy, 'scale:factor=0.1,tidy']", registry)
    assert str(pipeline) == "tidy,scale:factor=0.1,tidy"


def test_python_objects_and_text(registry, sample) -> None:
    assert str(Pipeline((sample.Scale(factor=0.25), sample.Tidy()))) == "scale:factor=0.25,tidy"
    assert repr(sample.Scale(factor=0.25)) == "scale:factor=0.25"
    with pytest.raises(UsageError, match=r"scale has no option 'factr'\. Did you mean 'factor'"):
        sample.Scale(factr=1)
    with pytest.raises(UsageError, match="scale: option 'share' cannot be 2"):
        sample.Scale(share=2)


def test_unknown_passes_name_the_nearest(registry) -> None:
    with pytest.raises(UsageError, match=r"there is no pass 'scal'\. Did you mean 'scale'\? Known: bad_attribute,"):
        Pipeline.parse("scal", registry)
    with pytest.raises(UsageError, match="Did you mean 'merge_relu'"):
        Pipeline.parse("merge-relu", registry)


values = st.fixed_dictionaries(
    {},
    optional={
        "factor": st.floats(allow_nan=False),
        "share": st.floats(0, 1),
        "align": st.one_of(st.integers(-(2**60), 2**60), st.just("auto")),
        "factors": st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: not t.startswith("re=")),
            st.floats(allow_nan=False),
            max_size=3,
        ),
        "skip": st.lists(st.sampled_from(["a", "op=B", "re=c+", "x@y", "none"]), max_size=3),
        "cap": st.one_of(st.none(), st.integers(0, 2**60)),
        "word": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])).filter(lambda w: w != "none")),
        "loud": st.booleans(),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(values, max_size=3))
def test_every_form_reads_back_what_it_writes(registry, sample, steps) -> None:
    pipeline = Pipeline.from_steps([("scale", v) for v in steps], registry)
    assert Pipeline.parse(str(pipeline), registry) == pipeline
    assert from_toml(to_toml(pipeline), registry) == pipeline
    assert from_yaml(to_yaml(pipeline), registry) == pipeline


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("passes: 3", "a recipe is a table with a list 'passes'"),
        ("- tidy", "a recipe is a table with a list 'passes'"),
        ("pases: []\npasses: []", "unknown key 'pases'. Did you mean 'passes'?"),
        ("passes: [tidy, 3]", "item 2 of 'passes': write 'name'"),
        ("passes: [{scale: 3}]", "item 1 of 'passes': write 'name'"),
        ("passes: [{scale: {factr: 3}}]", "item 1 of 'passes': scale has no option 'factr'. Did you mean 'factor'?"),
        ("passes: [{pass: scale, factor: x}]", "item 1 of 'passes': scale: option 'factor' cannot be x"),
        ("passes: [", "not valid YAML"),
        ("passes: [!!python/object/apply:os.system [ls]]", "not valid YAML"),
    ],
)
def test_wrong_recipes(registry, document, message) -> None:
    with pytest.raises(UsageError) as caught:
        from_yaml(document, registry)
    assert message in str(caught.value)


def test_recipe_files(registry, tmp_path) -> None:
    (tmp_path / "r.toml").write_text(TOML)
    (tmp_path / "r.yaml").write_text(YAML)
    assert read_recipe(tmp_path / "r.toml", registry) == read_recipe(tmp_path / "r.yaml", registry)
    (tmp_path / "bad.toml").write_text("passes = [")
    for name, message in (
        ("bad.toml", "bad.toml.: not valid TOML"),
        ("missing.yml", "missing.yml. cannot be read"),
        ("r.json", r"r.json. must end in .toml, .yaml or .yml"),
    ):
        with pytest.raises(UsageError, match=message):
            read_recipe(tmp_path / name, registry)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("scale.factor=0.1", "tidy,scale:factor=0.1:factors=/a/*@0.3"),
        ("scale.factors./layer1/*=0.2", "tidy,scale:factors=/a/*@0.3+/layer1/*@0.2"),
        ("scale.factors./a/*=0.2", "tidy,scale:factors=/a/*@0.2"),
        ("scale.factors.op=Conv=0.2", "tidy,scale:factors=/a/*@0.3+op=Conv@0.2"),
        ("scale.factors=b@1", "tidy,scale:factors=b@1.0"),
        ("scale.skip=op=Conv+a", "tidy,scale:factors=/a/*@0.3:skip=op=Conv+a"),
        ('scale.factors."a=b"=1', "tidy,scale:factors=/a/*@0.3+a=b@1.0"),
        ("scale#1.word=hi", "tidy,scale:factors=/a/*@0.3:word=hi"),
    ],
)
def test_overrides(registry, setting, text) -> None:
    pipeline = Pipeline.parse("tidy,scale:factors=/a/*@0.3", registry)
    assert str(apply_overrides(pipeline, [setting])) == text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scale", "--set 'scale': write PASS.OPTION=VALUE or PASS.OPTION.PATTERN=VALUE"),
        ("scale.factor", "write PASS.OPTION=VALUE"),
        ("scal.factor=1", "the pipeline has no pass 'scal'. Did you mean 'scale'? It runs: tidy, scale, tidy."),
        ("scale.factr=1", "scale has no option 'factr'. Did you mean 'factor'?"),
        ("scale.factrs.a=1", "scale has no option 'factrs'. Did you mean 'factors'?"),
        ("scale.factor.a=1", "scale: option 'factor' takes one value, not one per pattern"),
        ("scale.factors.a=x", "scale: option 'factors' cannot be a@x"),
        ("tidy.guarantee=exact", "'tidy' runs 2 times; write tidy#1.guarantee or tidy#2.guarantee"),
        ("scale#2.factor=1", "'scale' runs 1 times; #2 is none"),
        ("scale#0.factor=1", "'scale' runs 1 times; #0 is none"),
    ],
)
def test_wrong_overrides(registry, setting, message) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(Pipeline.parse("tidy,scale,tidy", registry), [setting])
    assert message in str(caught.value)


def test_numbered_overrides(registry) -> None:
    pipeline = apply_overrides(Pipeline.parse("tidy,scale,tidy", registry), ["tidy#2.guarantee=exact"])
    assert str(pipeline) == "tidy,scale,tidy:guarantee=exact"
