"""What runs the program, apart from tracking: shutdown, processes, prefetching, checkpoints, ONNX sessions."""
