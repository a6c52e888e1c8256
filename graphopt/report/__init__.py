"""Rendering of results: terminal tables, JSON, one self-contained HTML page."""
