"""A model: the graph, and everything else that its file holds. Loading and saving."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import onnx
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graphopt.errors import InvalidModelError, UnsupportedError, UsageError
from graphopt.graph import Graph, Opsets
from graphopt.serde import reader, writer
from graphopt.serde.exporter import GraphExporter, Weights, write_props
from graphopt.serde.importer import GraphImporter, copies, props, require_text
from graphopt.storage import FileRegion

Source: TypeAlias = "str | Path | bytes | onnx.ModelProto"
External: TypeAlias = Literal["auto", "inline", "file"]


@dataclass(eq=False)
class Model:
    """An ONNX model in memory.

    Attributes:
        graph: the main graph; nested graphs hang on its nodes.
        opsets: operator set versions by domain (``""`` is ``ai.onnx``); the same object as ``graph.opsets``.
        functions: local functions, as their protobufs. ``inline_functions`` expands them.
        training_info: kept as its protobufs; passes refuse to run on a model that has it.
        external: whether the file kept its weights outside.
    """

    graph: Graph
    ir_version: int = int(onnx.IR_VERSION)
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata_props: dict[str, str] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    training_info: list[onnx.TrainingInfoProto] = field(default_factory=list)
    path: Path | None = None
    external: bool = False

    @property
    def opsets(self) -> Opsets:
        """Operator set versions by domain."""
        return self.graph.opsets

    def save(self, path: str | Path, external: External = "auto", force: bool = False) -> None:
        """Write the model to ``path``; the file appears whole or not at all.

        ``external``: ``inline`` writes one file (under 2 GB), ``file`` puts weights of 1 kB and more into a data
        file beside it, named after its content; ``auto`` does what the model's own file did, or what its size needs.

        Raises:
            UsageError: ``path`` is the file the model came from, exists without ``force``, or is too large to inline.
        """
        proto, weights = self._export()
        writer.save(proto, weights, Path(path), external, self.external, self.files(), force)

    def serialize(self) -> bytes:
        """The model as bytes, weights included; the same model gives the same bytes.

        Raises:
            UsageError: the result would pass protobuf's limit of 2 GB.
        """
        return writer.serialize(*self._export())

    def to_proto(self) -> onnx.ModelProto:
        """A new ModelProto, weights included.

        Raises:
            UsageError: the weights would pass protobuf's limit of 2 GB.
        """
        proto, weights = self._export()
        writer.fill(proto, weights)
        return proto

    def stub_proto(self) -> onnx.ModelProto:
        """A new ModelProto in which large weights are external references to nowhere.

        It is small whatever the model's size, and what shape inference and the checker need.
        """
        proto, weights = self._export()
        return writer.stub(proto, weights)

    def clone(self) -> Model:
        """A second model with its own nodes and tensors, sharing the (read-only) weights."""
        proto, weights = self._export()
        return _assemble(proto, reader.SharedStore(weights), self.path, self.external)

    def convert_opset(self, version: int) -> None:
        """Rewrite the graph to another version of the ``ai.onnx`` operators with onnx's converter.

        Weights stay where they are, whatever the model's size.

        Raises:
            UnsupportedError: the converter cannot do it; the message gives its reason. The model is as it was.
        """
        proto, weights = self._export()
        try:
            converted = onnx.version_converter.convert_version(proto, version)
        except (RuntimeError, ValueError, IndexError, onnx.checker.ValidationError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]
            raise UnsupportedError(
                f"onnx cannot convert the model from opset {self.graph.opset} to {version}: {reason}"
            ) from error
        other = _assemble(converted, reader.SharedStore(weights), self.path, self.external)
        self.graph, self.ir_version, self.functions = other.graph, other.ir_version, other.functions

    def inline_functions(self) -> None:
        """Replace every call of a local function by the function's body. Nothing happens without functions."""
        if not self.functions:
            return
        proto, weights = self._export()
        inlined = onnx.inliner.inline_local_functions(proto)
        other = _assemble(inlined, reader.SharedStore(weights), self.path, self.external)
        self.graph, self.functions = other.graph, other.functions

    def weight_bytes(self) -> int:
        """Bytes of all initializers, nested graphs included."""
        return sum(c.nbytes for g in self.graph.graphs() for c in g.initializers)

    def _export(self) -> tuple[onnx.ModelProto, Weights]:
        self.graph.adopt()
        weights = Weights(writer.new_marker())
        proto = onnx.ModelProto(ir_version=self.ir_version)
        for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            if value := getattr(self, name):
                setattr(proto, name, value)
        for domain, version in self.opsets.items():
            proto.opset_import.add(domain=domain, version=version)
        GraphExporter(weights, self.graph if self.ir_version < 4 else None).write(self.graph, proto.graph)
        proto.functions.extend(self.functions)
        proto.training_info.extend(self.training_info)
        write_props(proto.metadata_props, self.metadata_props)
        return proto, weights

    def files(self) -> set[Path]:
        """The files that the model was read from and still reads weights from."""
        files = {} if self.path is None else {self.path: None}
        for graph in self.graph.graphs():
            for constant in graph.initializers:
                source = None if constant.stored is None else constant.stored.source
                if isinstance(source, FileRegion):
                    files[source.path] = None
        return set(files)


def load(source: Source, base_dir: str | Path | None = None) -> Model:
    """Read a model from a file, from bytes, or from a ModelProto (which is not changed).

    Weights of a file stay there until somebody reads them. ``base_dir`` is where external data of bytes or of a
    proto lies; a file's own folder is used for a file.

    Raises:
        UsageError: the path is missing or a folder.
        InvalidModelError: the content is not a valid ONNX model; the message names what is wrong.
    """
    base = None if base_dir is None else Path(base_dir).resolve()
    if isinstance(source, onnx.ModelProto):
        proto_store = reader.ProtoStore(base)
        model = _read(source, proto_store, "the given ModelProto", None)
        model.external = proto_store.external
        return model
    if isinstance(source, bytes):
        return _parse(reader.from_bytes(source, base), None)
    path = Path(source)
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name the .onnx file in it")
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    return _parse(reader.from_file(path.resolve()), path.resolve())


def _parse(content: reader.Content, path: Path | None) -> Model:
    try:
        proto = onnx.ModelProto.FromString(content.model)
    except DecodeError as error:
        raise InvalidModelError(f"{content.label} is not an ONNX model, or it is damaged: {error}") from error
    model = _read(proto, content.store, content.label, path)
    model.external = content.store.external
    return model


def _read(proto: onnx.ModelProto, store: reader.Store, label: str, path: Path | None) -> Model:
    if not proto.HasField("graph"):
        raise InvalidModelError(f"{label} is not an ONNX model: it holds no graph")
    if not proto.graph.node and not proto.graph.output:
        raise InvalidModelError(f"{label} holds an empty graph: no nodes and no outputs")
    return _assemble(proto, store, path, external=False)


def _assemble(proto: onnx.ModelProto, store: reader.Store, path: Path | None, external: bool) -> Model:
    for message in proto.opset_import:
        require_text(message, "an opset import", "domain")
    require_text(proto, "the model", "producer_name", "producer_version", "domain", "doc_string")
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    graph = GraphImporter(opsets, proto.ir_version, store).read(proto.graph)
    graph.sort()
    return Model(
        graph=graph,
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        model_version=proto.model_version,
        doc_string=proto.doc_string,
        metadata_props=props(proto.metadata_props),
        functions=copies(proto.functions),
        training_info=copies(proto.training_info),
        path=path,
        external=external,
    )
