"""Mechanisms of quantization: ranges, grids, placement of Q/DQ, rounding, and what really became integer."""
