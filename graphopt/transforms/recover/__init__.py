"""Closed-form recovery: least squares, elimination, allocation of a budget."""
