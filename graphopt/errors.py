"""The one exception tree of graphopt.

::

    GraphoptError                exit 1   something inside graphopt went wrong
    ├── PassError                exit 1   a pass failed; the model is as it was before the pass
    ├── UsageError               exit 2   wrong usage
    │   └── DataError            exit 2   bad data: names, shapes, NaN, Inf, empty
    ├── InvalidModelError        exit 3   the input model is invalid
    ├── ValidationError          exit 4   the result is not what it should be
    ├── BudgetError              exit 5   a budget was not met
    └── UnsupportedError         exit 6   not supported here
        └── ProviderError        exit 6   an execution provider cannot run here
"""

from __future__ import annotations


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose. ``exit_code`` is what the CLI returns for it."""

    exit_code = 1


class PassError(GraphoptError):
    """A pass failed. The model was rolled back to what entered the pass."""


class UsageError(GraphoptError):
    """An option, argument, pipeline text or recipe is wrong."""

    exit_code = 2


class DataError(UsageError):
    """Calibration or evaluation data does not fit the model or holds non-finite values."""

    exit_code = 2


class InvalidModelError(GraphoptError):
    """The model that was read, or that a pass left behind, breaks the ONNX specification."""

    exit_code = 3


class ValidationError(GraphoptError):
    """A result differs from its original by more than its guarantee allows, or does not run."""

    exit_code = 4


class BudgetError(GraphoptError):
    """A budget (accuracy drop, MACs, latency) was not met. The best model found was saved."""

    exit_code = 5


class UnsupportedError(GraphoptError):
    """A feature, type or operator is not supported here; the message says what to do."""

    exit_code = 6


class ProviderError(UnsupportedError):
    """An execution provider that was asked for cannot run on this machine."""

    exit_code = 6
