"""Slow, obvious references that the fast code is compared with, and streams of detections with known truth."""
