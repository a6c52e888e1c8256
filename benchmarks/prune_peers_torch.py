"""The PyTorch side of ``prune_peers.py``: exports an architecture, prunes it with Torch-Pruning, exports it again.

    python benchmarks/prune_peers_torch.py NAME FOLDER RATIO

Writes ``FOLDER/NAME.before.onnx``, ``FOLDER/NAME.after.onnx`` (when Torch-Pruning succeeds) and ``FOLDER/NAME.json``.
Random weights. Runs in an environment with torch, torchvision, timm and torch-pruning; knows nothing of graphopt.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "torchvision", "timm", "torch_pruning", "onnx")
CLASSES = 1000


def build(name: str) -> Any:
    import timm
    import torch
    import torchvision

    torch.manual_seed(0)
    library, _, model = name.partition(".")
    if library == "timm":
        return timm.create_model(model, pretrained=False).eval()
    if library == "segmentation":
        return torchvision.models.get_model(model, weights=None, weights_backbone=None, aux_loss=False).eval()
    options = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(model, weights=None, **options).eval()


def export(model: Any, example: Any, path: Path) -> None:
    import torch

    class Tensor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            y = self.inner(x)
            return y["out"] if isinstance(y, dict) else y

    torch.onnx.export(Tensor().eval(), (example,), str(path), opset_version=17, dynamo=False)


def heads_of(model: Any) -> dict[Any, int]:
    """Head hints, as Torch-Pruning's own transformer examples give them."""
    import torch

    found = {}
    for module in model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            found[module] = module.num_heads
        elif hasattr(module, "qkv") and hasattr(module, "num_heads"):
            found[module.qkv] = module.num_heads
    return found


def repair(model: Any, heads: dict[Any, int]) -> None:
    """Attributes that hold extents are adapted by hand, as in Torch-Pruning's own transformer examples."""
    for module in model.modules():
        if hasattr(module, "qkv") and module.qkv in heads and hasattr(module, "head_dim"):
            module.num_heads = heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            if hasattr(module, "attn_dim"):
                module.attn_dim = module.num_heads * module.head_dim


def prune(model: Any, example: Any, ratio: float) -> None:
    import torch
    import torch_pruning as tp

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    last = [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) == CLASSES]
    outputs = last[-1:] or [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))][-1:]
    heads = heads_of(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=outputs,
        num_heads=heads,
        output_transform=(lambda y: y["out"]) if last == [] else None,
    )
    pruner.step()
    repair(model, pruner.num_heads)


def main() -> int:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"missing packages: {', '.join(missing)}", file=sys.stderr)
        return 2
    import torch

    warnings.simplefilter("ignore")
    name, folder, ratio = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    size = 299 if "inception" in name else 224
    example = torch.randn(1, 3, size, size)
    model = build(name)
    export(model, example, folder / f"{name}.before.onnx")
    result = {"name": name, "failure": ""}
    try:
        prune(model, example, ratio)
        with torch.no_grad():
            model(example)
        export(model, example, folder / f"{name}.after.onnx")
    except Exception as error:  # noqa: BLE001 - whatever the peer or the pruned model raises is its result
        result["failure"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    (folder / f"{name}.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
