"""How the transformer cuts an image into tokens, and how many rows of patches a mask may hide."""

from __future__ import annotations

PATCH = 4
PATCHES_PER_ROW = 7
TOKENS = PATCHES_PER_ROW**2 + 1
"""Token 0 is the class token; the 49 patches follow row by row."""
MAX_MASKED_ROWS = 2
