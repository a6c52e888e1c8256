"""Time per kernel of ONNX Runtime, joined back to the nodes of the file and what they cost."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from graphopt.analysis.cost import node_costs
from graphopt.data.feeds import Feeds
from graphopt.errors import GraphoptError
from graphopt.ir import Node, is_constant
from graphopt.model import Model
from graphopt.results import NodeTime
from graphopt.runtime.materialize import session_source
from graphopt.runtime.profile import profile_nodes
from graphopt.runtime.session import SessionConfig
from graphopt.targets.builtin import ORT_CPU
from graphopt.targets.marking import display_names

_GIVEN = re.compile(r"(_nchwc|_token_\d+|/\w+Fusion/?)+$")
"""What ONNX Runtime appends to the names of tensors and nodes that it makes."""
_BESIDE = {
    "session.optimized_model_external_initializers_file_name": "optimized.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
_LAYOUT = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})
_TAKEN_OVER = frozenset({"QuantizeLinear", *ORT_CPU.absorbs})


def profile_model(model: Model, feeds: Feeds, config: SessionConfig | None = None) -> tuple[NodeTime, ...]:
    """Time per kernel, slowest first, with the nodes of the file that are in it and their multiply-accumulates.

    A node belongs to the kernel that computes its output; where no kernel does, since it was fused, to the one that its
    reader belongs to. A kernel that the runtime made by itself (a change of layout) has no nodes. Where ONNX Runtime
    cannot write the graph that it made, no kernel has.
    """
    work = model.clone()
    nodes = [n for n in work.graph.nodes if not n.is_op("Constant")]
    names = display_names(nodes)
    for node, name in zip(nodes, names, strict=True):
        node.name = name
    config = config or SessionConfig()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder, session_source(work) as source:
        path = Path(folder) / "optimized.onnx"
        own = replace(config, optimized_path=path, session_options={**config.session_options, **_BESIDE})
        try:
            times = profile_nodes(source, feeds, own)
        except GraphoptError:
            return profile_nodes(source, feeds, config)
        kernels = onnx.load(str(path), load_external_data=False).graph.node
    belongs = _belongs(nodes, kernels)
    macs = _macs(work, feeds)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, kernel in enumerate(belongs):
        if kernel is not None:
            groups[kernel].append(index)
    return tuple(
        replace(t, nodes=tuple(names[i] for i in groups[t.name]), macs=sum(macs[i] for i in groups[t.name]))
        for t in times
    )


def _belongs(nodes: Sequence[Node], kernels: Sequence[onnx.NodeProto]) -> list[str | None]:
    """The name of the kernel that each node became part of: by name, by output, else with what it feeds or follows."""
    names = {n.name: n for n in nodes if n.name}
    makers = _makers(kernels, {t.name: n.op for n in nodes for t in n.outputs})
    named: dict[str, onnx.NodeProto] = {}
    for kernel in kernels:
        for name in (kernel.name, _GIVEN.sub("", kernel.name)):
            if name in names and (kernel.op_type not in _LAYOUT or names[name].op == kernel.op_type):
                named.setdefault(name, kernel)
    found: list[str | None] = []
    places = {id(node): index for index, node in enumerate(nodes)}
    integer = {k.name for k in kernels if k.op_type.startswith(("QLinear", "QGemm"))}
    for node in nodes:
        own = named.get(node.name)
        made = next((makers[t.name] for t in node.outputs if t.name in makers), None)
        before = [found[places[id(n)]] for t in node.inputs[:1] for n in t.inputs if id(n) in places]
        follows = before[0] if node.op in _TAKEN_OVER and before and before[0] in integer else None
        found.append(own.name if own is not None else made or follows)
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        if found[index] is None and not (node.inputs and all(map(is_constant, node.inputs))):
            readers = [found[places[id(n)]] for t in node.outputs for n in t.outputs if id(n) in places]
            found[index] = next((k for k in readers if k is not None), None)
    return found


def _makers(kernels: Sequence[onnx.NodeProto], ops: Mapping[str, str]) -> dict[str, str]:
    """Tensor of the file -> kernel that computes it, seen through changes of layout that the runtime put in."""
    producers = {t: kernel for kernel in kernels for t in kernel.output if t}
    makers: dict[str, str] = {}
    for kernel in kernels:
        if _GIVEN.search(kernel.name):
            makers.setdefault(_GIVEN.sub("", kernel.name), kernel.name)
        for tensor in filter(None, kernel.output):
            source = kernel
            while source.op_type in _LAYOUT and ops.get(source.output[0]) != source.op_type:
                if source.input[0] not in producers:
                    break
                source = producers[source.input[0]]
            makers.setdefault(_GIVEN.sub("", tensor), source.name)
            makers[tensor] = source.name
    return makers


def _macs(model: Model, feeds: Feeds) -> list[int]:
    """Multiply-accumulates of the nodes of the main graph for these feeds; constants left out."""
    dims = {
        dim: int(size)
        for tensor in model.graph.inputs
        if tensor.name in feeds and tensor.shape is not None
        for dim, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        if isinstance(dim, str)
    }
    return [cost.macs for cost in node_costs(model, dims)]
