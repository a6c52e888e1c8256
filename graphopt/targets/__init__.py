"""Targets: what each runtime runs well, as data. ``get_target`` finds one by name."""

from graphopt.targets.base import Target as Target
from graphopt.targets.registry import get_target as get_target
from graphopt.targets.registry import target_names as target_names
