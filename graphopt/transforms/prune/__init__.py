"""Mechanisms of pruning: selection, slicing, the independent oracle that proves it, manifests."""
