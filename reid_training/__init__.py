"""Training of the appearance metric: images in, one ONNX file out. Start reading at `train.py`."""
