"""Layouts of detectors' outputs: what each looks like, how it is decoded, and the picture that its network expects."""
