"""Mechanisms that passes share."""
