"""Scripts that ``graphopt export --target tensorrt`` copies, for a machine with TensorRT and a GPU."""
