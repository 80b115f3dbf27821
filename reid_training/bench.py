"""Milliseconds per crop of an exported network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from reid_training.embedders import OnnxEmbedder


def time_crops(path: Path, batch: int, threads: int, seconds: float = 1.0) -> tuple[float, float]:
    """Milliseconds per crop of the network alone (crops ready as float32): median and 95th percentile over calls."""
    session = OnnxEmbedder(path, threads).session
    shape = (batch, *session.get_inputs()[0].shape[1:])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for _ in range(3):  # warm-up: the first calls allocate memory
        session.run(None, {"images": images})
    calls: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(calls) < 5:
        started = time.perf_counter()
        session.run(None, {"images": images})
        calls.append(1e3 * (time.perf_counter() - started) / batch)
    return float(np.median(calls)), float(np.percentile(calls, 95))
