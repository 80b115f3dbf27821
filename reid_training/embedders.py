"""Embed images with a torch network or an ONNX file, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from reid_training.data.base import ByteArray, Samples, read_inputs
from reid_training.data.transforms import network_input
from reid_training.errors import ModelError
from reid_training.methods.base import Method

FloatArray = npt.NDArray[np.float32]
# Of metadata; the tracker takes the same.
LARGEST_SIDE_PX = 4096
LARGEST_VALUE, SMALLEST_STD = 1e4, 1e-6


class Embedder(Protocol):
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def __call__(self, images: ByteArray) -> FloatArray:
        """images (B, height, width, 3) uint8 RGB. Returns (B, D) float32, rows of unit length."""


@dataclass(frozen=True, slots=True)
class TorchEmbedder:
    method: Method  # in eval mode
    height: int
    width: int

    def __call__(self, images: npt.NDArray[Any]) -> FloatArray:
        device = next(self.method.parameters()).device
        with torch.inference_mode():
            embeddings = self.method.embed(network_input(torch.from_numpy(images).to(device)))
        return np.asarray(embeddings.cpu().numpy(), dtype=np.float32)


class OnnxEmbedder:
    """An ONNX network; preprocesses crops exactly as its metadata says."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        self.session = open_session(path, threads)
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        if self.metadata.get("tracklet.format") != "reid/1":
            raise ModelError(f"{path} has no metadata of `reid export` (tracklet.format = reid/1)")
        self.height, self.width, self._scale, self._mean, self._std = read_preparation(self.metadata, path)

    def __call__(self, images: ByteArray) -> FloatArray:
        return np.asarray(self.session.run(["embeddings"], {"images": self.prepared(images)})[0], dtype=np.float32)

    def prepared(self, images: ByteArray) -> FloatArray:
        """images (B, height, width, 3) uint8 RGB. Returns what the network takes, (B, 3, height, width)."""
        values = (images.astype(np.float32) * self._scale - self._mean) / self._std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def open_session(path: Path, threads: int) -> Any:
    """onnxruntime's session of a file, on the CPU. Raises ModelError for one that is missing or damaged."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports usage otherwise
    import onnxruntime as ort

    if not path.is_file():
        raise ModelError(f"no file {path}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: files of other origins have weights that nothing uses, a warning for each
    try:
        # Without onnxruntime's own fallback, which prints to stdout.
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception:  # onnxruntime has a dozen exception types without a public base
        raise ModelError(f"{path} is not an ONNX model, or it is damaged") from None


def read_preparation(metadata: Mapping[str, str], path: Path) -> tuple[int, int, np.float32, FloatArray, FloatArray]:
    """Preprocessing: height and width in pixels; value = (pixel * scale - mean (3,)) / std (3,)."""
    try:
        height, width = int(metadata["input_height"]), int(metadata["input_width"])
        scale = float(metadata["pixel_scale"])
        mean, std = (np.array([float(word) for word in metadata[key].split(",")]) for key in ("mean", "std"))
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: metadata is incomplete: {error}") from None
    if not (1 <= height <= LARGEST_SIDE_PX and 1 <= width <= LARGEST_SIDE_PX):
        raise ModelError(
            f"{path}: metadata input_height and input_width must be 1 to {LARGEST_SIDE_PX}, got {height} and {width}"
        )
    if mean.shape != (3,) or std.shape != (3,) or not (np.abs([scale, *mean, *std]) <= LARGEST_VALUE).all():
        raise ModelError(f"{path}: metadata pixel_scale, mean and std must be 1, 3 and 3 numbers")
    if not (scale > 0 and (std >= SMALLEST_STD).all()):
        raise ModelError(f"{path}: metadata pixel_scale and std must be positive")
    return height, width, np.float32(scale), mean.astype(np.float32), std.astype(np.float32)


def embed_images(embedder: Embedder, images: npt.NDArray[Any], batch: int = 64) -> FloatArray:
    """images (N, H, W, 3), or what a network of maps takes, (N, C, h, w). Returns (N, D)."""
    return np.concatenate([embedder(images[start : start + batch]) for start in range(0, len(images), batch)])


def embed_samples(embedder: Embedder, samples: Samples, chunk: int = 2048) -> FloatArray:
    """Decodes and embeds in chunks: a data set need not fit into memory. Returns (N, D)."""
    parts = []
    for start in range(0, len(samples), chunk):
        piece = samples.take(np.arange(start, min(start + chunk, len(samples))))
        parts.append(embed_images(embedder, read_inputs(piece, embedder.height, embedder.width)))
    return np.concatenate(parts)
