"""What a file says about how graphopt made it: version, pipeline, target, seed. No time, no host, no path."""

from __future__ import annotations

import graphopt
from graphopt.model import Model
from graphopt.pipeline.context import Settings
from graphopt.pipeline.pipeline import Pipeline

VERSION = "graphopt.version"
PIPELINE = "graphopt.pipeline"
TARGET = "graphopt.target"
SEED = "graphopt.seed"


def stamp(model: Model, pipeline: Pipeline, settings: Settings) -> None:
    """Record in ``metadata_props`` the passes that changed the model, after those that an earlier run recorded."""
    earlier = model.metadata_props.get(PIPELINE)
    model.metadata_props[VERSION] = graphopt.__version__
    model.metadata_props[PIPELINE] = f"{earlier},{pipeline}" if earlier else str(pipeline)
    model.metadata_props[TARGET] = settings.target
    model.metadata_props[SEED] = str(settings.seed)
