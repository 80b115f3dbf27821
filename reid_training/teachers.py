"""Networks that teach: a run of `reid train`, the file of `reid export`, or a file of another origin."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid_training.config import DistilConfig
from reid_training.data.base import ByteArray
from reid_training.embedders import Embedder, FloatArray, OnnxEmbedder, TorchEmbedder, open_session
from reid_training.errors import ModelError
from reid_training.runs import find_checkpoint, load_method

CHANNELS = 3


def open_teacher(config: DistilConfig, device: torch.device, threads: int) -> tuple[Embedder, str]:
    """The network that `config.teacher` names, and a SHA-256 of its files and of how crops are prepared for them.

    A run is computed on `device`, a file on the CPU with so many threads. Raises ModelError for a file that is missing
    or damaged, or whose input is not pictures of one known size.
    """
    path = Path(config.teacher)
    if path.suffix == ".xml":
        network = _foreign(path, *_openvino(path, config, threads), config)
        return network, _digest(config, path, path.with_suffix(".bin"))
    if path.suffix != ".onnx":
        method, run, _ = load_method(path)
        method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        return TorchEmbedder(method, run.data.height, run.data.width), _digest(config, find_checkpoint(path))
    session = open_session(path, threads)
    if "tracklet.format" in session.get_modelmeta().custom_metadata_map:
        return OnnxEmbedder(path, threads), _digest(config, path)
    port = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else None for size in port.shape]
    return _foreign(path, lambda x: session.run(None, {port.name: x})[0], shape, config), _digest(config, path)


def _digest(config: DistilConfig, *files: Path) -> str:
    preparation = (config.height, config.width, config.color_order, config.pixel_scale, config.mean, config.std)
    found = hashlib.sha256(repr(preparation).encode())
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class ForeignEmbedder:
    """A network of another origin, with the preparation that `[distil]` says. Rows are scaled to unit length."""

    network: Callable[[FloatArray], FloatArray]  # what `prepared` gives, to (B, E)
    height: int
    width: int
    channels_last: bool
    most: int | None  # crops of one call; None: any number
    config: DistilConfig

    def __call__(self, images: ByteArray) -> FloatArray:
        values = self.prepared(images)
        step = self.most or len(values)
        rows = np.concatenate([self.network(values[at : at + step]) for at in range(0, len(values), step)])
        rows = rows.reshape(len(images), -1).astype(np.float32)  # some keep the map's height and width of 1
        if not np.isfinite(rows).all():
            raise ModelError(f"{self.config.teacher}: gives embeddings that are not finite")
        found: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
        return found

    def prepared(self, images: ByteArray) -> FloatArray:
        """images (B, height, width, 3) uint8 RGB. Returns what the network takes, float32."""
        pixels = images[..., ::-1] if self.config.color_order == "BGR" else images
        mean, std = np.array(self.config.mean, np.float32), np.array(self.config.std, np.float32)
        values = (pixels.astype(np.float32) * np.float32(self.config.pixel_scale) - mean) / std
        return np.ascontiguousarray(values if self.channels_last else values.transpose(0, 3, 1, 2))


def _foreign(
    path: Path, network: Callable[[FloatArray], FloatArray], shape: Sequence[int | None], config: DistilConfig
) -> ForeignEmbedder:
    """shape: of the input, in which None is any number: (B, 3, H, W) or (B, H, W, 3)."""
    channels_last = len(shape) == 4 and shape[1] != CHANNELS and shape[3] == CHANNELS
    if len(shape) != 4 or not (channels_last or shape[1] == CHANNELS):
        raise ModelError(f"{path}: a teacher takes pictures (B, 3, H, W) or (B, H, W, 3), this one takes {list(shape)}")
    in_graph = shape[1:3] if channels_last else shape[2:]
    sides = []
    for name, fixed, wanted in zip(("height", "width"), in_graph, (config.height, config.width), strict=True):
        if fixed is None and not wanted:
            raise ModelError(f"{path}: takes pictures of any {name}; set distil.{name}")
        if fixed is not None and wanted not in (0, fixed):
            raise ModelError(f"{path}: takes pictures of {name} {fixed}, distil.{name} is {wanted}")
        sides.append(fixed or wanted)
    return ForeignEmbedder(network, sides[0], sides[1], channels_last, shape[0], config)


def _openvino(
    path: Path, config: DistilConfig, threads: int
) -> tuple[Callable[[FloatArray], FloatArray], list[int | None]]:
    """A network in OpenVINO's own format, NAME.xml with NAME.bin beside it, computed in float32."""
    absent: Any = None  # what makes Python say that there is no such module
    sys.modules.setdefault("openvino_telemetry", absent)  # it sends usage data whenever OpenVINO is imported
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f"{path}: {error}; in the source folder: pip install '.[openvino]'") from None
    if not path.is_file() or not path.with_suffix(".bin").is_file():
        raise ModelError(f"{path}: a network of OpenVINO is two files, this and {path.with_suffix('.bin').name}")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        dimensions = list(model.input().partial_shape)
        shape = [size.get_length() if size.is_static else None for size in dimensions]
        if len(shape) == 4:
            model.reshape([-1, *(shape[1:])] if None not in shape[1:] else dimensions)
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        request = core.compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: OpenVINO cannot read it: {reason}") from None
    return lambda x: np.array(request.infer([x])[0]), [None, *shape[1:]]
