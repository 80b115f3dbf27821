"""Where boxes come from: a replayed file, the person detector in the box, or another ONNX network."""
