"""Detectors: a replayed file, the bundled person detector, or another ONNX network."""
