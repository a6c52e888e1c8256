"""Block-wise quantization of weight matrices: a scale, and maybe a zero point, for every few inputs of each output.

Ranges are searched by the error they make, weighted with the energy of each input where it is known. Rounding is to
nearest, or with the Gram matrix of the inputs one input at a time, each error spread over those that follow (GPTQ,
Frantar et al. 2022). Integers are packed as ``com.microsoft`` MatMulNBits or as ONNX's int4 hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphopt.ir import Array
from graphopt.transforms.quantize.rounding import gptq

_SHRINKS = np.linspace(1.0, 0.6, 21)
_DAMPING = 0.01


@dataclass(frozen=True)
class BlockGrid:
    """Bits of an integer, inputs that share a scale, whether the zero point is fixed in the middle, whether scales may
    be negative (which puts the extra step on the side of the larger extreme), and the type of stored scales."""

    bits: int
    block: int
    symmetric: bool
    mirrored: bool = False
    scales: str = "float32"

    @property
    def top(self) -> int:
        """Highest stored value; the lowest is 0."""
        return int(2**self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric integers, stored unsigned."""
        return int(2 ** (self.bits - 1))


@dataclass(frozen=True)
class BlockWeight:
    """A matrix [outputs, inputs]: real = (stored - zero) * scale.

    ``stored`` uint8 [outputs, blocks, block], padded with the zero point; ``scale`` float32 and ``zero`` uint8
    [outputs, blocks]; ``inputs``: how many there are without the padding.
    """

    stored: Array
    scale: Array
    zero: Array
    grid: BlockGrid
    inputs: int

    @property
    def real(self) -> Array:
        """The values that the integers stand for, float32 [outputs, inputs]."""
        values = (self.stored.astype(np.float32) - self.zero[..., None]) * self.scale[..., None]
        return np.asarray(values.reshape(len(values), -1)[:, : self.inputs])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed integers, scales and zero points."""
        zeros = 0 if self.grid.symmetric else self.zero.size * self.grid.bits // 8
        return int(self.stored.size * self.grid.bits // 8 + self.scale.nbytes + zeros)


def quantize_blocks(weight: Array, grid: BlockGrid, gram: Array | None = None) -> BlockWeight:
    """Quantize ``weight`` [outputs, inputs], float32.

    ``gram``: X^T X of the inputs, [inputs, inputs], divided by the rows; None: round to nearest.
    """
    blocks = _cut(weight, grid)
    energy = None if gram is None else _padded(np.diag(gram), grid)
    scale, zero = _ranges(blocks, grid, energy)
    stored = _round(blocks, scale, zero, grid) if gram is None else _round_learned(weight, gram, scale, zero, grid)
    return BlockWeight(stored.astype(np.uint8), scale.astype(np.float32), zero.astype(np.uint8), grid, weight.shape[1])


def _cut(weight: Array, grid: BlockGrid) -> Array:
    rows, inputs = weight.shape
    count = -(-inputs // grid.block)
    padded = np.zeros((rows, count * grid.block), np.float32)
    padded[:, :inputs] = weight
    return padded.reshape(rows, count, grid.block)


def _padded(energy: Array, grid: BlockGrid) -> Array:
    count = -(-len(energy) // grid.block)
    padded = np.zeros(count * grid.block)
    padded[: len(energy)] = energy
    return padded.reshape(count, grid.block)


def _ranges(blocks: Array, grid: BlockGrid, energy: Array | None) -> tuple[Array, Array]:
    """Scale (float32, a value of the stored type) and zero point [outputs, blocks], of least error of shrunk ranges."""
    low, high = np.minimum(blocks.min(axis=2), 0.0), np.maximum(blocks.max(axis=2), 0.0)
    best = np.full(low.shape, np.inf)
    scale, zero = np.ones_like(low), np.full(low.shape, float(grid.middle), np.float32)
    for shrink in _SHRINKS:
        for tried, at in _grids(low * shrink, high * shrink, grid):
            error = np.square(_real(_round(blocks, tried, at, grid), tried, at) - blocks)
            total = error.sum(axis=2) if energy is None else (error * energy).sum(axis=2)
            better = total < best
            best, scale, zero = (
                np.where(better, total, best), np.where(better, tried, scale), np.where(better, at, zero)
            )  # fmt: skip
    return scale, zero


def _grids(low: Array, high: Array, grid: BlockGrid) -> list[tuple[Array, Array]]:
    """Grids that span a range: with a free zero point one; symmetric ones without and with the extra negative step."""
    if not grid.symmetric:
        scale = _storable((high - low) / grid.top, grid)
        return [(scale, np.clip(np.rint(-low / scale), 0, grid.top).astype(np.float32))]
    middle = np.full(low.shape, float(grid.middle), np.float32)
    bound = np.maximum(-low, high)
    sign = np.where((high > -low) & grid.mirrored, -1.0, 1.0).astype(np.float32)
    return [
        (_storable(bound / (grid.middle - 1), grid), middle),
        (_storable(bound / grid.middle, grid) * sign, middle),
    ]


def _storable(scale: Array, grid: BlockGrid) -> Array:
    """The next scales up that the stored type holds, above 0; kernels turn larger scales of zeros into noise."""
    info = np.finfo(grid.scales)
    least = info.tiny if grid.scales == "float32" else info.smallest_subnormal
    held = scale.astype(grid.scales)
    held = np.where(held < scale, np.nextafter(held, np.array(np.inf, held.dtype)), held)
    return np.maximum(held.astype(np.float32), np.float32(least))


def _round(blocks: Array, scale: Array, zero: Array, grid: BlockGrid) -> Array:
    return np.asarray(np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, grid.top))


def _real(stored: Array, scale: Array, zero: Array) -> Array:
    return np.asarray((stored - zero[..., None]) * scale[..., None])


def _round_learned(weight: Array, gram: Array, scale: Array, zero: Array, grid: BlockGrid) -> Array:
    inputs = weight.shape[1]
    steps, zeros = (np.repeat(v.astype(np.float64), grid.block, axis=1)[:, :inputs] for v in (scale, zero))
    hessian = gram.astype(np.float64).copy()
    diagonal = np.arange(inputs)
    hessian[diagonal, diagonal] += _DAMPING * max(float(np.trace(hessian)) / inputs, 1e-12)
    found = gptq(weight.astype(np.float64), hessian, steps, -zeros, grid.top - zeros) + zeros
    padded = np.repeat(zero.astype(np.float64), grid.block, axis=1)
    padded[:, :inputs] = found
    return padded.reshape(len(weight), -1, grid.block)


def pack(values: Array, bits: int) -> Array:
    """Values uint8 along the last axis packed into bytes, the first in the low bits; padded with zeros."""
    per_byte = 8 // bits
    if per_byte == 1:
        return values
    missing = -values.shape[-1] % per_byte
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    shifts = (np.arange(per_byte) * bits).astype(np.uint8)
    grouped = padded.reshape(*padded.shape[:-1], -1, per_byte) << shifts
    return np.asarray(np.bitwise_or.reduce(grouped, axis=-1)).astype(np.uint8)


def matmulnbits(weight: BlockWeight) -> tuple[Array, Array, Array | None]:
    """Weight [outputs, blocks, bytes], scales [outputs, blocks] and zero points [outputs, bytes] or None."""
    bits = weight.grid.bits
    zeros = None if weight.grid.symmetric else pack(weight.zero, bits)
    return pack(weight.stored, bits), weight.scale, zeros


def onnx_blocks(weight: BlockWeight) -> tuple[Array, Array, Array | None]:
    """Weight [inputs, outputs] of type int4, uint4 or int8, scales [blocks, outputs] and zero points, or None.

    Symmetric integers are stored signed, with zero point 0.
    """
    grid = weight.grid
    flat = weight.stored.reshape(len(weight.stored), -1)[:, : weight.inputs].T
    if not grid.symmetric:
        kind = ml_dtypes.uint4 if grid.bits == 4 else np.uint8
        return flat.astype(kind), weight.scale.T, weight.zero.T.astype(kind)
    kind = ml_dtypes.int4 if grid.bits == 4 else np.int8
    return (flat.astype(np.int16) - grid.middle).astype(kind), np.ascontiguousarray(weight.scale.T), None
