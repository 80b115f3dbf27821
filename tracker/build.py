"""Builds a pipeline from names: source, detector, re-ID network, engine.

The command, `track_video` and the evaluation all build here, so that the same names give the same tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tracker.appearance.people import PeopleFile
from tracker.classes import Classes
from tracker.config import TrackerConfig
from tracker.detector.base import DetectFunction, Detector, DetectorBase, with_defaults
from tracker.detector.inputs import as_numbers
from tracker.detector.open import open_detector
from tracker.detector.verified import VerifiedDetections
from tracker.engine import Engine
from tracker.errors import ConfigError, DetectionError, SourceError
from tracker.pipeline import Pipeline
from tracker.runtime.processes import n_cores
from tracker.runtime.weights import bundled_reid
from tracker.sources.base import FrameSource
from tracker.sources.frame_queue import LATE_S
from tracker.sources.span import WHOLE, Span
from tracker.stages.embed import Encoder, Thresholds
from tracker.stages.recognise import Recogniser
from tracker.types import FeatureArray, FloatArray, ImageArray

if TYPE_CHECKING:
    from tracker.detector.batched import SharedDetector  # loads OpenCV

EmbedFunction = Callable[[ImageArray, FloatArray], Any]
Reid = Literal["default"] | str | Path | EmbedFunction | None

MOST_AT_ONCE = 4  # frames of a file in the detector at a time: more would only take memory


@dataclass(frozen=True)
class SharedNetworks:
    """Networks that several pipelines share, each pipeline in a thread of its own."""

    detector: SharedDetector | None  # None: all replay detections that nothing verifies
    encoder: tuple[Encoder | None, Thresholds | None]  # see `load_encoder`


def open_pipeline(
    source: str | int | Path | FrameSource,
    *,
    detections: str | Path | None = None,
    detector: str | Path | Detector | DetectFunction | None = None,
    reid: Reid = "default",
    config: TrackerConfig | None = None,
    device: str = "auto",
    fps: float | None = None,
    classes: tuple[str | int, ...] = ("person",),
    detector_size: int | None = None,
    layout: str = "auto",
    threads: int | None = None,
    reconnect_s: float | None = None,
    span: Span = WHOLE,
    keep_features: bool = False,
    people: str | Path | None = None,
    shared: SharedNetworks | None = None,
) -> Pipeline:
    """Open the source and all parts; the words are those of `track_video`. Raises TrackletError.

    threads: cores to use, to run several pipelines side by side; None: all. Results do not depend on it.
    span: the frames of the source to track. An open source comes with its frame rate and span; it is closed here if
    something else cannot be opened, else by `Pipeline.close`. With detections and images, the detector (None:
    the bundled one) verifies the detections, unless the setting `proposals.verify` or `reid` (None: motion alone) says
    otherwise. people: file of the people of earlier runs, read if it exists, and written by `Pipeline.close`. shared:
    the networks that `detector` and `reid` name, to load none.
    """
    from tracker.sources.open import open_source
    from tracker.sources.webcam import RECONNECT_S

    config = config or TrackerConfig()
    patience_s = RECONNECT_S if reconnect_s is None else reconnect_s
    if isinstance(source, FrameSource):
        opened = source
    else:
        opened = open_source(
            source, fps=fps, default_fps=config.default_fps, reconnect_s=patience_s, span=span,
            late_s=LATE_S if config.detection.every is None else 0.0,
        )  # fmt: skip
    try:
        network = partial(_open_network, opened, detector, device, classes, detector_size, layout, threads, shared)
        if detections is None:
            part = network()
        elif config.proposals.by_detector and reid is not None and opened.has_images:
            part = VerifiedDetections(_open_replay(opened, detections, None), network())
        elif detector is None:
            part = _open_replay(opened, detections, detector_size)
        else:
            raise ConfigError(
                "give either detections to replay or a detector to run; both only where the detector verifies the "
                'detections: with images, an appearance network, and verify "detector"'
            )
        if shared is not None and opened.has_images:
            encoder, thresholds = shared.encoder
        else:
            encoder, thresholds = load_encoder(reid if opened.has_images else None, device, threads)
        if keep_features and encoder is None:
            why = "with --reid none" if reid is None else f"{opened.name} has no images"
            raise ConfigError(f"there are no embeddings to save: {why}")
        known = Classes(part.class_names, all_embedded=not for_people(reid))
        file = None if people is None else _open_people(people, encoder, opened.name)
        recogniser = None if file is None else Recogniser(file.people)
        engine = Engine(config, encoder, thresholds, part.second_look, keep_features, known, recogniser)
        return Pipeline(opened, part, engine, file)
    except BaseException:
        opened.close()
        raise


def _open_people(path: str | Path, encoder: Encoder | None, source: str) -> PeopleFile:
    from tracker.appearance.encoder import OnnxEncoder

    if not isinstance(encoder, OnnxEncoder):
        why = f"{source} has no images, or there is no network" if encoder is None else f"{encoder.name} is no file"
        raise ConfigError(f"--people knows people by the embeddings of a re-ID file: {why}")
    return PeopleFile(path, encoder.path, encoder.embedding_size)


def for_people(reid: Reid) -> bool:
    """Whether the network is a bundled one, which can tell people apart, and nothing else."""
    return reid is None or (not callable(reid) and bundled_reid(reid) is not None)


def load_encoder(
    reid: Reid, device: str = "auto", threads: int | None = None
) -> tuple[Encoder | None, Thresholds | None]:
    """The encoder that `reid` names and the thresholds it brings; (None, None) for None.

    threads: cores to use; None: all. The network takes half of them: a frame has few crops, and on two cores a second
    thread makes one crop slower (1.3 ms instead of 0.9) and eight hardly faster (4.9 instead of 5.2).
    """
    if reid is None:
        return None, None
    if callable(reid):
        return _FunctionEncoder(reid), None
    from tracker.appearance.encoder import OnnxEncoder

    encoder = OnnxEncoder(None if reid == "default" else reid, device, max(1, (threads or n_cores()) // 2))
    known = encoder.calibration
    return encoder, Thresholds(known.tau_same, known.tau_diff, known.sigma_same)


class _FunctionEncoder:
    """A user's function as encoder; its rows are made unit length."""

    def __init__(self, function: EmbedFunction) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self._function = function
        self._size: int | None = None  # of an embedding

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        features = as_features(self._function(image, boxes), len(boxes))
        if len(features):
            size = features.shape[1]
            self._size = self._size or size
            if size != self._size:
                raise DetectionError(f"{self.name} gave embeddings of size {size} after others of size {self._size}")
        return features


def as_features(embeddings: Any, n: int) -> FeatureArray:
    """(N, D) float32 with unit rows. Raises DetectionError with the shape, or the row that is wrong."""
    features = as_numbers("embeddings", embeddings).astype(np.float32)
    if n == 0 and features.size == 0:
        return np.zeros((0, features.shape[1] if features.ndim == 2 else 0), np.float32)
    if features.ndim != 2 or len(features) != n or features.shape[1] == 0:
        raise DetectionError(f"embeddings must have the shape ({n}, D), one row a detection, got {features.shape}")
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norm[:, 0]))
    if len(bad):
        raise DetectionError(f"embedding {bad[0]} holds NaN or infinite values")
    return np.asarray(np.divide(features, norm, out=np.zeros_like(features), where=norm > 0))


def _open_replay(source: FrameSource, detections: str | Path, size: int | None) -> DetectorBase:
    if str(detections) == "public":
        if source.detections_path is None:
            raise SourceError(f"{source.name}: brings no public detections (det/det.txt); name a file instead")
        detections = source.detections_path
    return open_detector(detections=detections, size=size)


def _open_network(
    source: FrameSource,
    detector: str | Path | Detector | DetectFunction | None,
    device: str,
    classes: tuple[str | int, ...],
    size: int | None,
    layout: str,
    threads: int | None,
    shared: SharedNetworks | None,
) -> DetectorBase:
    if not source.has_images and getattr(detector, "last_frame", None) is None:  # not a replay
        raise SourceError(f"{source.name}: has no images to find people in; give detections with --detections FILE")
    if shared is not None:
        assert shared.detector is not None
        return shared.detector.part()
    if detector is None or isinstance(detector, (str, Path)):
        n_at_once, threads = _searches(source.live, threads)
        return open_detector(
            model=detector, classes=classes, size=size, layout=layout, device=device, threads=threads,
            n_at_once=n_at_once,
        )  # fmt: skip
    if size is not None or layout != "auto":
        asked = f"layout {layout}" if size is None else f"size of {size}"
        raise ConfigError(f"a detector {asked} is for a network; an object chooses its own")
    return with_defaults(detector)


def _searches(live: bool, threads: int | None) -> tuple[int, int | None]:
    """How many frames the detector searches at once, and the threads for each.

    Of a camera the newest frame is wanted soon, so all cores share its search. Frames of a file are there: each is
    searched whole by one thread, or few, which wastes nothing on waiting for one another. With one core there is
    nothing to gain.
    """
    cores = threads or n_cores()
    if live or cores == 1:
        return 0, threads
    n_at_once = min(cores, MOST_AT_ONCE)
    return n_at_once, cores // n_at_once
