"""Mechanisms of the clean-up passes: facts about tensors, constant evaluation, an editor for many small rewrites."""
