"""Reading and writing ONNX files: the protobuf wire level, the importer, the exporter, external data."""
