"""Feeds for a model: files, folders, user code, synthetic inputs, and how they are cut into batches."""
