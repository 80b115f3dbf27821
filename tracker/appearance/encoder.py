"""The re-ID network: boxes of people to unit vectors, of which the cosine distance tells people apart.

All properties of a model are in its ONNX metadata, so that another network is another file and no change here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.appearance.crops import crop_batch
from tracker.errors import ModelError
from tracker.runtime.onnx_session import Session, open_session, packaged_model
from tracker.runtime.weights import DEFAULT_REID, bundled_reid
from tracker.types import FeatureArray, FloatArray, ImageArray

_log = logging.getLogger(__name__)
_FORMAT = "reid/1"
_MAX_BATCH = 512  # crops of one call of the network: more people than a frame has; bounds the memory


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosine distances of this network, measured on people it was not trained on."""

    tau_same: float  # below it: the same person
    tau_diff: float  # above it: different people; >= tau_same
    sigma_same: float  # root mean square distance between crops of one person


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Checked metadata of a re-ID model."""

    name: str
    input_height: int
    input_width: int
    rgb: bool
    pixel_scale: float
    mean: tuple[float, float, float]  # in the network's order of colours; value = (pixel * pixel_scale - mean) / std
    std: tuple[float, float, float]
    embedding_size: int
    normalized: bool
    calibration: Calibration
    trained_on: str
    licence: str


class OnnxEncoder:
    """Embeds the boxes of a frame.

    path: a model, or the name of one that comes with the package: "fast", "accurate", "default"; None takes the default
    one. A file of that name in the working directory goes first. device, threads: see `open_session`. Raises ModelError
    where the file is no re-ID model, naming the metadata key, what was found and what is right.
    """

    def __init__(self, path: str | Path | None = None, device: str = "auto", threads: int | None = None) -> None:
        bundled = DEFAULT_REID if path is None else bundled_reid(path)
        if bundled is not None:
            with packaged_model(bundled) as packaged:
                self._session = open_session(packaged, device, threads)
        else:
            assert path is not None
            self._session = open_session(path, device, threads)
        self.path = self._session.path
        self.card = read_card(self._session.metadata, self.path)
        _check_ports(self._session, self.card)
        self.name = self.card.name
        self.calibration = self.card.calibration
        self.embedding_size = self.card.embedding_size
        self.provider = self._session.provider
        self.n_crops = 0  # crops embedded so far, for the statistics
        self._warned = False

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """image (h, w, 3) uint8 BGR, boxes (N, 4) xyxy -> (N, D) float32 unit rows; an empty box gives zeros."""
        card = self.card
        size = (card.input_height, card.input_width)
        features = np.zeros((len(boxes), card.embedding_size), dtype=np.float32)
        for start in range(0, len(boxes), _MAX_BATCH):
            part = slice(start, start + _MAX_BATCH)
            crops, seen = crop_batch(image, boxes[part], size, card.mean, card.std, card.pixel_scale, card.rgb)
            found = self._session.run(crops)[0]
            if found.shape != (len(crops), card.embedding_size):
                expected = (len(crops), card.embedding_size)
                raise ModelError(f"{self.path}: the model gave embeddings of shape {found.shape}; expected {expected}")
            features[part] = _unit_rows(found) * seen[:, None]
            if not self._warned and not features[part][seen].any(axis=1).all():
                self._warned = True
                _log.warning("%s: gives embeddings that are zero or no numbers; such people go by motion", self.path)
        self.n_crops += len(boxes)
        return features


def read_card(metadata: Mapping[str, str], path: Path) -> ModelCard:
    """The card of a model from its ONNX metadata. Raises ModelError naming the key, what it holds and what is right."""
    read = _CardReader(metadata, path)
    read.one_of("tracklet.format", _FORMAT)
    read.one_of("distance", "cosine")
    tau_same = read.number("tau_same", 0.0, 2.0)
    return ModelCard(
        name=read.text("name"),
        input_height=read.whole("input_height", 8, 1024),
        input_width=read.whole("input_width", 8, 1024),
        rgb=read.one_of("color_order", "RGB", "BGR") == "RGB",
        pixel_scale=read.number("pixel_scale", 1e-6, 1e3),
        mean=read.three("mean", -1e4, 1e4),
        std=read.three("std", 1e-6, 1e4),
        embedding_size=read.whole("embedding_size", 1, 65536),
        normalized=read.one_of("normalized", "true", "false", "1", "0") in ("true", "1"),
        calibration=Calibration(
            tau_same=tau_same,
            tau_diff=read.number("tau_diff", tau_same, 2.0),
            sigma_same=read.number("sigma_same", 1e-6, 2.0),
        ),
        trained_on=read.text("trained_on"),
        licence=read.text("licence"),
    )


class _CardReader:
    """Typed access to metadata; all its values are text."""

    def __init__(self, metadata: Mapping[str, str], path: Path) -> None:
        self._metadata, self._path = metadata, path

    def text(self, key: str, expected: str = "some text") -> str:
        value = self._metadata.get(key)
        if value is None or not value.strip():
            hint = "" if key == "tracklet.format" or "tracklet.format" in self._metadata else "; is it a re-ID model?"
            problem = "is missing" if value is None else "is empty"
            raise ModelError(f"{self._path}: metadata {key!r} {problem}; expected {expected}{hint}")
        return value.strip()

    def one_of(self, key: str, *allowed: str) -> str:
        expected = " or ".join(repr(value) for value in allowed)
        value = self.text(key, expected)
        for choice in allowed:
            if value.lower() == choice.lower():
                return choice
        raise self._wrong(key, value, expected)

    def number(self, key: str, low: float, high: float) -> float:
        expected = f"a number from {low:g} to {high:g}"
        return self._float(key, self.text(key, expected), low, high, expected)

    def whole(self, key: str, low: int, high: int) -> int:
        expected = f"a whole number from {low} to {high}"
        text = self.text(key, expected)
        value = self._float(key, text, low, high, expected)
        if value != int(value):
            raise self._wrong(key, text, expected)
        return int(value)

    def three(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        expected = f"three numbers from {low:g} to {high:g} with commas"
        text = self.text(key, expected)
        parts = text.strip("[]() ").split(",")
        if len(parts) != 3:
            raise self._wrong(key, text, expected)
        a, b, c = (self._float(key, part, low, high, expected) for part in parts)
        return a, b, c

    def _float(self, key: str, text: str, low: float, high: float, expected: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self._wrong(key, text, expected) from None
        if not (math.isfinite(value) and low <= value <= high):
            raise self._wrong(key, text, expected)
        return value

    def _wrong(self, key: str, value: str, expected: str) -> ModelError:
        return ModelError(f"{self._path}: metadata {key!r} is {value[:60]!r}; expected {expected}")


def _check_ports(session: Session, card: ModelCard) -> None:
    """The model's input and output must be what its metadata says."""
    found = f"found {', '.join(map(str, session.inputs))} -> {', '.join(map(str, session.outputs))}"
    wanted = (None, 3, card.input_height, card.input_width)
    expected = f"expected one float input (batch, 3, {card.input_height}, {card.input_width}) with an open batch"
    if len(session.inputs) != 1 or session.inputs[0].dtype != "float" or len(session.inputs[0].shape) != 4:
        raise ModelError(f"{session.path}: {expected}, {found}")
    shape = session.inputs[0].shape
    if shape[0] is not None or any(size not in (None, want) for size, want in zip(shape[1:], wanted[1:], strict=True)):
        raise ModelError(f"{session.path}: {expected}, {found}")
    output = session.outputs[0]
    if len(output.shape) != 2 or output.dtype != "float" or output.shape[1] not in (None, card.embedding_size):
        raise ModelError(f"{session.path}: expected a float output (batch, {card.embedding_size}), {found}")


def _unit_rows(table: FeatureArray) -> FeatureArray:
    """(N, D) -> rows of length 1, whatever the model promised; rows without direction or not finite: zeros."""
    length = np.linalg.norm(table, axis=1, keepdims=True)
    good = np.isfinite(length) & (length > 0)
    return np.asarray(np.divide(table, length, out=np.zeros_like(table), where=good))
