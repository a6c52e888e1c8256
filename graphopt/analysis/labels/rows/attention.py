"""Fused attention: ai.onnx Attention and the com.microsoft family. Units are heads (with their key-value group) and
positions inside a head; queries and keys share the latter, values have their own."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis, Frozen, one
from graphopt.analysis.opnames import ops


def _pin_scale(site: Site, width: Axis, extent: int) -> None:
    if not site.attr("scale"):
        site.fix_attr("scale", lambda kept: 1.0 / float(extent) ** 0.5 if kept.changed(width) else None)


def _heads(site: Site, axis: Axis, heads: int) -> tuple[Axis, Axis]:
    made = site.split(axis, [heads, len(axis) // heads])
    return made[0], made[1]


def _share(site: Site, queries: Axis, keys: Axis) -> None:
    """Every key-value head serves a block of query heads."""
    if len(queries) == len(keys):
        site.equal(queries, keys)
        return
    repeat = len(queries) // len(keys)
    inner = one() if repeat == 1 else site.space.fresh(repeat)
    site.space.relate(queries, [keys, inner], site.name)
    site.count(queries, len(keys))


def _count(site: Site, name: str, axis: Axis) -> None:
    site.fix_attr(name, lambda kept: kept.count(axis) if kept.changed(axis) else None)


def attention(site: Site) -> None:
    """ai.onnx Attention (opset 23): Q, K, V of rank 4 [B, heads, S, d] or rank 3 [B, S, heads * d]."""
    q, k, v = site.axes(0), site.axes(1), site.axes(2)
    if len(q) == 3:
        q_heads, q_width = _heads(site, q[2], int(site.attr("q_num_heads")))
        kv = int(site.attr("kv_num_heads"))
        k_heads, k_width = _heads(site, k[2], kv)
        v_heads, v_width = _heads(site, v[2], kv)
        _count(site, "q_num_heads", q_heads)
        _count(site, "kv_num_heads", k_heads)
        queries, keys = q[1], k[1]
        site.mask(0, 2)
    else:
        q_heads, q_width, k_heads, k_width, v_heads, v_width = q[1], q[3], k[1], k[3], v[1], v[3]
        queries, keys = q[2], k[2]
        site.mask(0, 3)
    site.equal(k_heads, v_heads)
    _share(site, q_heads, k_heads)
    site.equal(q_width, k_width)
    _pin_scale(site, q_width, len(q_width))
    for axis in (q[0], k[0], v[0], queries, keys, v[1] if len(v) == 3 else v[2]):
        site.freeze(axis, "(batch or sequence)")
    if site.has(3):
        _mask_input(site, 3, q_heads)
    _cache(site, 4, k_heads, k_width)
    _cache(site, 5, v_heads, v_width)
    out = [q[0], queries, site.merge([q_heads, v_width])] if len(q) == 3 else [q[0], q_heads, queries, v_width]
    site.emit([a if len(a) == e else site.stuck(e) for a, e in zip(out, site.out(), strict=True)])
    for index, (heads, width) in ((1, (k_heads, k_width)), (2, (v_heads, v_width))):
        if index < len(site.node.outputs) and not site.node.outputs[index].is_empty():
            site.emit([k[0], heads, site.stuck(site.out(index)[2]), width], index)
    if len(site.node.outputs) > 3 and not site.node.outputs[3].is_empty():
        site.emit([q[0], q_heads, *(site.stuck(e) for e in site.out(3)[2:])], 3)
    scale = float(len(q[0]) * len(queries) * len(keys))
    site.cost(scale, (q_heads, q_width))
    site.cost(scale, (q_heads, v_width))


def _mask_input(site: Site, index: int, heads: Axis) -> None:
    axes = site.axes(index)
    for place, axis in enumerate(axes):
        if place == len(axes) - 3 and len(axis) == len(heads) and len(axis) > 1:
            site.equal(axis, heads)
        else:
            site.freeze(axis, "(attention mask)")


def _cache(site: Site, index: int, heads: Axis, width: Axis) -> None:
    if site.has(index):
        axes = site.axes(index)
        site.equal(axes[1], heads)
        site.equal(axes[3], width)
        for place in (0, 2):
            site.freeze(axes[place], "(cache)")


def packed_attention(site: Site) -> None:
    """com.microsoft Attention: one weight [in, q + k + v] and one bias."""
    x, w = site.axes(0), site.axes(1)
    heads = int(site.attr("num_heads"))
    sizes = [int(s) for s in site.attr("qkv_hidden_sizes", [len(w[1]) // 3] * 3)]
    if any(site.has(i) for i in range(4, site.inputs)) or len(site.node.outputs) > 1:
        site.freeze_all("(past, bias or present states)")
        return
    site.equal(x[2], w[0])
    site.mask(0, 2)
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    parts = [site.pick(w[1], slice(s, s + n)) for s, n in zip(starts, sizes, strict=True)]
    factors = [_heads(site, p, heads) for p in parts]
    site.equal(factors[0][0], factors[1][0])
    site.equal(factors[0][0], factors[2][0])
    site.equal(factors[0][1], factors[1][1])
    if not isinstance(factors[0][1], Frozen):
        site.freeze(factors[0][1], "(query and key width of a packed weight)")
    if site.has(2):
        site.equal(site.axes(2)[0], w[1])
    if site.has(3):
        site.freeze_input(3, "(attention mask)")
    _count(site, "num_heads", factors[0][0])
    site.fix_attr("qkv_hidden_sizes", lambda kept: [kept.count(p) for p in parts] if kept.changed(w[1]) else None)
    for axis in x[:2]:
        site.freeze(axis, "(sequence)")
    site.emit([x[0], x[1], parts[2]])
    tokens = float(len(x[0]) * len(x[1]))
    site.cost(tokens, (w[0], w[1]))
    site.cost(tokens * len(x[1]), (parts[0],))
    site.cost(tokens * len(x[1]), (parts[2],))


def multi_head(site: Site) -> None:
    """com.microsoft MultiHeadAttention with separate rank-3 query, key, value."""
    separate = site.has(1) and site.has(2) and all(len(site.shape(i)) == 3 for i in range(3))
    if not separate or any(site.has(i) for i in range(6, site.inputs)) or len(site.node.outputs) > 1:
        site.freeze_all("(packed inputs or past states)")
        return
    q, k, v = site.axes(0), site.axes(1), site.axes(2)
    heads = int(site.attr("num_heads"))
    (h, width), (h2, width2), (h3, v_width) = (_heads(site, a[2], heads) for a in (q, k, v))
    for other in (h2, h3):
        site.equal(h, other)
    site.equal(width, width2)
    site.mask(0, 2)
    _pin_scale(site, width, len(width))
    if site.has(3):
        site.equal(site.axes(3)[0], site.chain([q[2], k[2], v[2]]))
        site.freeze(width, "(query bias is added inside)")
    for index in (4, 5):
        if site.has(index):
            _mask_input(site, index, h)
    for axis in (*q[:2], *k[:2], *v[:2]):
        site.freeze(axis, "(sequence)")
    _count(site, "num_heads", h)
    site.emit([q[0], q[1], site.merge([h, v_width])])
    scale = float(len(q[0]) * len(q[1]) * len(k[1]))
    site.cost(scale, (q[2],))
    site.cost(scale, (v[2],))


def grouped_query(site: Site) -> None:
    """com.microsoft GroupQueryAttention with separate inputs: whole key-value groups; widths inside heads stay."""
    if not (site.has(1) and site.has(2)):
        site.freeze_all("(packed query, key and value)")
        return
    q, k, v = site.axes(0), site.axes(1), site.axes(2)
    heads, kv = int(site.attr("num_heads")), int(site.attr("kv_num_heads"))
    (q_heads, width), (k_heads, k_width), (v_heads, v_width) = (
        _heads(site, a[2], n) for a, n in ((q, heads), (k, kv), (v, kv))
    )
    site.equal(k_heads, v_heads)
    _share(site, q_heads, k_heads)
    for axis in (width, k_width, v_width):
        site.freeze(axis, "(head size of a fused attention)")
    for index in range(3, site.inputs):
        if index in (3, 4) and site.has(index):
            axes = site.axes(index)
            site.equal(axes[1], k_heads)
            site.freeze(axes[2], "(cache)")
        else:
            site.freeze_input(index, "(cache or mask)")
    for axis in (*q[:2], *k[:2], *v[:2]):
        site.freeze(axis, "(sequence)")
    _count(site, "num_heads", q_heads)
    _count(site, "kv_num_heads", k_heads)
    site.emit([q[0], q[1], q[2]])
    for index in (1, 2):
        if index < len(site.node.outputs) and not site.node.outputs[index].is_empty():
            made = [site.stuck(e) for e in site.out(index)]
            made[1] = k_heads
            site.emit(made, index)


def rotary(site: Site) -> None:
    """RotaryEmbedding: heads pass, positions inside a head stay."""
    x = site.axes(0)
    for place in (0, 2) if len(x) == 4 else (0, 1):
        site.freeze(x[place], "(batch or sequence)")
    if len(x) == 4:
        site.freeze(x[3], "(rotated pairs)")
    else:
        heads = int(site.attr("num_heads", 0))
        if heads:
            head, width = _heads(site, x[2], heads)
            site.freeze(width, "(rotated pairs)")
            _count(site, "num_heads", head)
        else:
            site.freeze(x[2], "(rotated pairs)")
    for index in range(1, site.inputs):
        site.freeze_input(index, "(rotation tables)")
    site.emit(x)


EVERYTHING: Mapping[str, str] = dict.fromkeys(
    ops(
        "com.microsoft:PackedAttention com.microsoft:PackedMultiHeadAttention com.microsoft:SparseAttention "
        "com.microsoft:LongformerAttention com.microsoft:DecoderMaskedMultiHeadAttention com.microsoft:PagedAttention "
        "com.microsoft:DecoderMaskedSelfAttention com.microsoft:DecoderAttention com.microsoft:LinearAttention"
    ),
    "(packed or cached attention)",
)
"""Attention operators all of whose axes stay, and why."""

ROWS: Mapping[str, Rule] = {
    "Attention": attention,
    "RotaryEmbedding": rotary,
    "com.microsoft:RotaryEmbedding": rotary,
    "com.microsoft:Attention": packed_attention,
    "com.microsoft:MultiHeadAttention": multi_head,
    "com.microsoft:GroupQueryAttention": grouped_query,
}
