"""A model loaded in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from graphopt.data.checks import Array, check_dims, check_names
from graphopt.data.feeds import Feeds
from graphopt.data.interface import Interface, TensorInfo, read_interface
from graphopt.data.shape_profile import ShapeProfile
from graphopt.errors import DataError, InvalidModelError, ProviderError, ValidationError
from graphopt.results import NodeAssignment
from graphopt.runtime.exotic import is_exotic, run_with_exotic_types
from graphopt.runtime.ort_errors import Role, load_error, ort_exceptions, run_error
from graphopt.runtime.provider_options import ProviderSettings, Setup, model_cache, precisions_of, provider_settings
from graphopt.runtime.providers import CPU, Provider, preload, register_plugin, require

Optimize = Literal["off", "basic", "extended", "all"]
Outputs = Mapping[str, Any]

_FATAL = 4


class Runner(Protocol):
    """Anything that runs feeds through a model: a Session, or a stand-in."""

    @property
    def interface(self) -> Interface:
        """Names, types and shapes of inputs and outputs."""
        ...

    def run(self, feeds: Feeds) -> Outputs:
        """Run once; output name -> array (a list for a sequence, None for an empty optional)."""
        ...


@dataclass(frozen=True)
class SessionConfig:
    """How a model is loaded.

    ``provider`` is graphopt's name (cpu, cuda, ...). ``threads`` are those inside one operator. ``optimize`` is
    the graph optimization level; "off" is reference semantics. ``strict`` refuses a model of which a node is
    left to another provider. ``base_dir`` is where external data of a model given as bytes lies. Providers that
    compile use ``cache_dir`` for their engines, ``shapes`` for the ranges of free dims, and write the model with its
    engine to ``context_path``; ``provider_options`` win over what follows from these. ``fit_floats`` casts float feeds
    of another width than the inputs have, for a result whose inputs were cast. ``weights`` are those that a model given
    as bytes refers to as external data, by name; they are read where they lie.
    """

    provider: str = "cpu"
    threads: int = 1
    optimize: Optimize = "all"
    strict: bool = False
    provider_options: Mapping[str, str] = field(default_factory=dict)
    session_options: Mapping[str, str] = field(default_factory=dict)
    base_dir: Path | None = None
    profile_prefix: Path | None = None
    optimized_path: Path | None = None
    cache_dir: Path | None = None
    shapes: ShapeProfile = field(default_factory=ShapeProfile)
    context_path: Path | None = None
    fit_floats: bool = False
    weights: Mapping[str, Array] = field(default_factory=dict)


class Session:
    """One model in memory, ready to run.

    ``role`` decides which error a model that does not load or run raises: "input" gives InvalidModelError (3),
    UnsupportedError (6) or DataError (2), "result" ValidationError (4). ``name`` stands in messages. ``load_ms``
    is how long ONNX Runtime took to make the session.

    Raises ProviderError when the provider cannot run here, or, with ``strict``, leaves nodes to another one.
    """

    def __init__(
        self,
        model: bytes | Path,
        config: SessionConfig | None = None,
        *,
        role: Role = "input",
        name: str | None = None,
    ) -> None:
        self.config = config or SessionConfig()
        self.name = name or ("the model" if isinstance(model, bytes) else str(model))
        self._role: Role = role
        try:
            self.interface = read_interface(model)
        except InvalidModelError as error:
            if role == "result":
                raise ValidationError(str(error)) from error
            raise
        self._provider = require(self.config.provider)
        self.settings = _settings(self._provider, model, self.config)
        started = time.perf_counter()
        self._session = self._create(model)
        self.load_ms = (time.perf_counter() - started) * 1000
        self._check_provider()

    @property
    def provider(self) -> str:
        """graphopt's name of the provider that was asked for."""
        return self.config.provider

    @property
    def threads(self) -> int:
        """Threads inside one operator."""
        return self.config.threads

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that the session really has, in order."""
        return tuple(self._session.get_providers())

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(info.name for info in self.interface.outputs)

    @cached_property
    def _exotic(self) -> bool:
        return any(is_exotic(info.dtype) for info in (*self.interface.inputs, *self.interface.outputs))

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once. ``outputs`` picks some; all by default.

        Values are arrays, lists for sequences, None for empty optionals. Raises DataError when names, types or
        shapes do not match, and see the class for a model that fails.
        """
        feeds = self._fitted(feeds)
        self.check(feeds)
        names = list(self.output_names if outputs is None else [self.interface.output(name).name for name in outputs])
        try:
            if self._exotic:
                values = run_with_exotic_types(self._session, self.interface, names, feeds)
            else:
                values = self._session.run(names, dict(feeds))
        except ort_exceptions() as error:
            raise run_error(error, self.name, self._role, self._batch_hint(feeds)) from error
        return dict(zip(names, values, strict=True))

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """Give a call that runs ``feeds`` with no checks around it, for timing."""
        self.run(feeds)
        names, ready, session = list(self.output_names), dict(self._fitted(feeds)), self._session
        if self._exotic:
            return lambda: run_with_exotic_types(session, self.interface, names, ready)
        return lambda: session.run(names, ready)

    def _fitted(self, feeds: Feeds) -> Feeds:
        if not self.config.fit_floats:
            return feeds
        wanted = {i.name: i.dtype for i in self.interface.inputs if np.issubdtype(i.dtype, np.floating)}
        return {
            name: array.astype(wanted[name]) if name in wanted and array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }

    def check(self, feeds: Feeds) -> None:
        """Raise DataError when feeds do not match the inputs in name, type, rank or a fixed dim."""
        check_names(feeds, self.interface, "the feed")
        for name, array in feeds.items():
            _check_type(array, self.interface.input(name))
            check_dims(array.shape, self.interface.input(name), "the feed")

    def assignments(self) -> tuple[NodeAssignment, ...] | None:
        """Which provider each node was given to, before fusion; None where this ONNX Runtime does not tell."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return None
        return tuple(
            NodeAssignment(part.ep_name, node.name, node.op_type, node.domain)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )

    def end_profiling(self) -> Path:
        """Stop profiling and give the file; only with ``profile_prefix``."""
        return Path(self._session.end_profiling())

    def _create(self, model: bytes | Path) -> Any:
        import onnxruntime

        preload(self._provider)
        devices = () if self._provider.execution_provider == CPU else register_plugin(self._provider)
        options = _options(self.config, devices, self.settings)
        try:
            return onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=None if devices else _provider_list(self._provider, self.settings),
                enable_fallback=0,
            )
        except ort_exceptions() as error:
            raise load_error(error, self.name, self._role) from error

    def _check_provider(self) -> None:
        wanted = self._provider.execution_provider
        if wanted not in self.providers:
            raise ProviderError(f"{self.name}: asked for {wanted}, the session runs on {', '.join(self.providers)}")
        if not self.config.strict:
            return
        left = [node for node in self.assignments() or () if node.provider != wanted]
        if left:
            shown = ", ".join(f"{node.name or 'unnamed'} ({node.op})" for node in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise ProviderError(f"{self.name}: {len(left)} nodes do not run on {wanted}: {shown}{more}")

    def _batch_hint(self, feeds: Feeds) -> str:
        grown = [
            name
            for name, array in feeds.items()
            if array.ndim and array.shape[0] > 1 and not isinstance((self.interface.input(name).shape or ("",))[0], int)
        ]
        return ". A model that was exported for one sample at a time needs --batch 1" if grown else ""


def save_optimized(model: bytes | Path, path: Path, config: SessionConfig | None = None) -> None:
    """Write the graph that ONNX Runtime makes of a model for this machine; for looking at, not for shipping."""
    Session(model, replace(config or SessionConfig(), optimized_path=path))


def _settings(provider: Provider, model: bytes | Path, config: SessionConfig) -> ProviderSettings:
    """The provider's options for this model, the user's on top; a cache folder is made."""
    if provider.execution_provider == CPU:
        return ProviderSettings(dict(config.provider_options))
    cache = None
    if config.cache_dir is not None:
        cache = model_cache(config.cache_dir, model, config.shapes)
        cache.mkdir(parents=True, exist_ok=True)
    setup = Setup(cache, config.shapes, config.context_path, precisions_of(model), config.threads)
    found = provider_settings(provider.name, setup)
    return ProviderSettings({**found.provider, **config.provider_options}, found.session)


def _options(config: SessionConfig, devices: tuple[Any, ...], settings: ProviderSettings) -> Any:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = {
        "off": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[config.optimize]
    entries = {"session.record_ep_graph_assignment_info": "1", **settings.session, **config.session_options}
    if config.base_dir is not None:
        entries["session.model_external_initializers_file_folder_path"] = str(config.base_dir)
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if config.profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(config.profile_prefix)
    if config.weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in config.weights.values()]
        options.add_external_initializers(list(config.weights), values)
    if config.optimized_path is not None:
        options.optimized_model_filepath = str(config.optimized_path)
    if devices:
        options.add_provider_for_devices(list(devices), dict(settings.provider))
    return options


def _provider_list(provider: Provider, settings: ProviderSettings) -> list[Any]:
    if provider.execution_provider == CPU:
        return [CPU]
    return [(provider.execution_provider, dict(settings.provider)), CPU]


def _check_type(array: Array, info: TensorInfo) -> None:
    if array.dtype != info.dtype and not (info.dtype == np.dtype(object) and array.dtype.kind in "US"):
        raise DataError(f"the feed: input {info.name!r} takes {info.dtype}, the array has {array.dtype}")
