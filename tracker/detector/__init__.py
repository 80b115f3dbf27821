"""Where boxes come from: a replayed file, an ONNX network, or the built-in person detector."""
