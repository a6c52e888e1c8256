"""The built-in passes. One pass a file; the file name is the pass name.

They are found through the entry-point group ``graphopt.passes``, exactly as a user's own passes are.
"""

if __name__ != "graphopt.passes":
    raise ImportError("import graphopt.passes, not passes: this folder is installed as graphopt.passes")
