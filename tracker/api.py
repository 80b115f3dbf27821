"""Python API: `Tracker().update(...)` for your own loop, `track_video(...)` for a whole source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tracker.build import Reid, as_features, for_people, load_encoder, open_pipeline
from tracker.classes import Classes
from tracker.config import TrackerConfig
from tracker.detector.base import DetectFunction, Detector, DetectorBase
from tracker.detector.inputs import as_detections
from tracker.detector.open import open_detector
from tracker.detector.verified import pool
from tracker.engine import Engine
from tracker.errors import ConfigError, DetectionError
from tracker.pipeline import Pipeline
from tracker.sources.span import Span
from tracker.sources.webcam import camera_name
from tracker.tracked_video import TrackedVideo
from tracker.types import Detections, Frame, FrameTracks, ImageArray, Tracks

_log = logging.getLogger(__name__)


class Tracker:
    """Tracks people through the frames of one stream, given their boxes.

    reid: "default", the bundled network; a path to another re-ID ONNX; a function (image, xyxy (N, 4)) -> (N, D); or
    None: motion alone. verify: what confirms people, "off", "appearance", or "detector", with which the bundled
    detector looks at each frame, too, and adds its evidence to the boxes (`detector.verified`): their scores and places
    change, and boxes that it alone sees have a `det_index` of N or more; None: the setting, else "appearance". fps is
    the frame rate where `update` gets no time stamps. keep_features puts embeddings into the tracks, see
    `Tracks.features`. class_names: of the classes in `dets` by number, as far as they are known: car and truck may then
    be one object, and the bundled networks look at people alone; without names every number is a class of its own, and
    of people. Other keyword arguments replace single settings, with two underscores for the dot:
    `Tracker(proposals__max_s=1.0)`. A tracker can be copied and pickled at any time: copies share the networks, and
    one that is read from a pickle opens them again by their paths.

    >>> tracks = Tracker().update([[10, 20, 50, 120, 0.9]])
    >>> len(tracks)  # a track is output after three detections
    0
    """

    def __init__(
        self,
        config: TrackerConfig | None = None,
        *,
        reid: Reid = "default",
        device: str = "auto",
        verify: str | None = None,
        fps: float | None = None,
        keep_features: bool = False,
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, TrackerConfig):
            raise ConfigError(f"config must be a TrackerConfig, as of TrackerConfig.load('x.toml'), got {config!r}")
        config = (config or TrackerConfig()).override({k.replace("__", "."): v for k, v in settings.items()})
        config = _verified_by(config, verify)
        self.config = config if fps is None else config.override({"default_fps": fps})
        self._reid = reid
        self._device = device
        self._keep_features = keep_features
        self._classes = Classes(class_names, all_embedded=not for_people(reid))
        if self.config.proposals.verify == "detector" and self._classes.person != 0:
            raise ConfigError(
                f'verify "detector" needs people as class 0, as in the detector; here they are {self._classes.person}'
            )
        self.reset()
        if reid != "default":
            self._attach()  # errors are raised now; the default network loads at the first image

    def reset(self) -> None:
        """Delete all tracks, for the next video. Identities start at 1 again."""
        self._engine = Engine(self.config, keep_features=self._keep_features, classes=self._classes)
        self._attached = False
        self._detector: DetectorBase | None = None  # that verifies the boxes
        self._given: bool | None = None
        self._index = 0
        self._time_s: float | None = None

    def __copy__(self) -> Tracker:
        """A copy shares nothing that changes: both go on by themselves."""
        return deepcopy(self)

    def update(
        self,
        dets: Any,
        frame: ImageArray | None = None,
        *,
        embeddings: Any = None,
        timestamp: float | None = None,
    ) -> Tracks:
        """Track one frame.

        dets: None, [], an array (N, 4), (N, 5) or (N, 6) of x1, y1, x2, y2[, score in [0, 1][, class]] in pixels, an
        object with `.xyxy` such as supervision.Detections, Results of ultralytics, or a DataFrame with columns of these
        names. frame: (H, W, 3) uint8 BGR, or None: motion alone, no
        proposals. embeddings: (N, D), one for each detection, instead of the network's; then nothing is proposed, and
        they must come with every frame. timestamp: seconds, growing; None: the last one + 1 / fps.

        Returns the confirmed tracks of this frame, see `Tracks`; never None. Raises DetectionError for input of a
        wrong shape or with impossible values; the tracker is then as it was before.
        """
        detections = as_detections(dets)
        given = detections.features if embeddings is None else embeddings
        if given is not None:
            features = as_features(given, len(detections))
            detections = detections.with_features(features if len(detections) else None)
        image = _as_image(frame)
        time_s = self._next_time(timestamp)
        self._check_one_space(detections, image)
        if image is not None and not self._given and not self._attached:
            self._attach()

        height, width = (0, 0) if image is None else image.shape[:2]
        seen = Frame(self._index, time_s, image, width, height)
        if self._given:
            # With embeddings of the caller the networks never run, also in a frame without detections.
            self._engine.detach()
        elif image is not None and self._detector is not None:
            people = self._classes.group(detections.classes) == self._classes.person
            detections = pool(detections, self._detector.detect(seen), people)
        tracks = self._engine.step(seen, detections)
        self._index += 1
        self._time_s = time_s
        return tracks

    @property
    def backfilled(self) -> list[FrameTracks]:
        """Rows of earlier frames that became known in the last `update`: tentative boxes of tracks just confirmed.

        Frames count from 0, one for each `update`. To write each track from its first frame on, hold the last
        `confirm_hits - 1` frames; `track_video` does that.
        """
        return self._engine.backfilled

    def _attach(self) -> None:
        encoder, thresholds = load_encoder(self._reid, self._device)
        if self.config.proposals.verify == "detector" and self._reid is not None:
            self._detector = open_detector(device=self._device)
        self._engine.attach(encoder, thresholds, self._detector)
        self._attached = True

    def _next_time(self, timestamp: float | None) -> float:
        if timestamp is None:
            return 0.0 if self._time_s is None else self._time_s + 1.0 / self.config.default_fps
        if not isinstance(timestamp, (int, float, np.integer, np.floating)):
            raise DetectionError(f"a timestamp must be a number of seconds, got {timestamp!r}")
        if not np.isfinite(timestamp) or (self._time_s is not None and timestamp <= self._time_s):
            raise DetectionError(f"timestamps must grow from frame to frame: got {timestamp!r} after {self._time_s!r}")
        return float(timestamp)

    def _check_one_space(self, detections: Detections, image: ImageArray | None) -> None:
        """Embeddings of the caller and of the network lie in different spaces: one tracker uses one kind."""
        given = detections.features is not None
        if given and len(detections):
            dim = self._engine.appearance.gallery.dim
            size = detections.features.shape[1] if detections.features is not None else 0
            if self._given is False or (dim and size != dim):
                known = f"of size {dim}" if self._given else "from the network"
                raise DetectionError(f"embeddings of size {size} after frames with embeddings {known}; use one kind")
            self._given = True
        elif self._given and len(detections):
            raise DetectionError("earlier frames came with embeddings, this one without; give them with every frame")
        elif image is not None and self._reid is not None and len(detections) and self._given is None:
            self._given = False


def track_video(
    source: str | int | Path,
    *,
    detections: str | Path | None = None,
    detector: str | Path | Detector | DetectFunction | None = None,
    reid: Reid = "default",
    verify: str | None = None,
    config: TrackerConfig | None = None,
    device: str = "auto",
    fps: float | None = None,
    classes: tuple[str | int, ...] = ("person",),
    detector_size: int | None = None,
    layout: str = "auto",
    reconnect_s: float | None = None,
    start: str | int | None = None,
    end: str | int | None = None,
    stride: str | int | None = None,
    keep_features: bool = False,
    people: str | Path | None = None,
) -> TrackedVideo:
    """Track a whole source; yields (frame, tracks) in order, each track from its first frame on.

    Nothing is opened before the first frame is asked for. In a notebook the result shows itself, see `TrackedVideo`.

    source: a video file, a folder or glob of images, a MOT sequence folder, a webcam number, or an address.
    detections: a MOT detection file to replay ("public": the det/det.txt of a MOT sequence); detector: an ONNX file, a
    function (image) -> (N, 4 .. 6), an object with `detect(frame)` that gives whatever `update` takes, or "person",
    the bundled network, also the default without both. An object with an attribute `second_look` (see
    `detector.base.Detector`) runs again on windows around people it missed. verify: what confirms people, "off",
    "appearance" or "detector"; None: the setting `proposals.verify`. With "detector" the detector verifies detections
    of a file, too (`detector.verified`).
    detector_size: long side in pixels of the input of a network that leaves it open; None: by the size of the frames,
    see `detector.onnx.default_long_side`. layout: of the outputs of its file, and of the picture that it expects, see
    docs/detectors.md; "auto" tells it from the file. start, end, stride: the part of a file to track: frame numbers
    from 1, the end included, or times as "12.5s" or "1:30", the end not included; `Frame.index` (from 0) and
    `Frame.time_s` stay those of the whole file.
    reconnect_s: how long a camera or stream that is lost is tried again; 0: not at all, inf: for ever, None: 60.
    keep_features: put embeddings into the tracks, see `Tracks.features`. people: a file, people.npz, of the people of
    earlier runs, whose numbers return with them; written at the end. Raises TrackletError, in one line.
    """
    open_it = partial(
        open_pipeline, source, detections=detections, detector=detector, reid=reid,
        config=_verified_by(config or TrackerConfig(), verify), device=device, fps=fps,
        classes=classes, detector_size=detector_size, layout=layout, reconnect_s=reconnect_s,
        span=Span.parse(start, end, stride), keep_features=keep_features, people=people,
    )  # fmt: skip
    return TrackedVideo(camera_name(str(source)), _frames(open_it))


def _frames(open_it: Callable[[], Pipeline]) -> Generator[tuple[Frame, Tracks], None, None]:
    pipeline = open_it()
    try:
        yield from pipeline
    finally:
        pipeline.close()


def _verified_by(config: TrackerConfig, verify: str | None) -> TrackerConfig:
    return config if verify is None else config.override({"proposals.verify": verify})


def _as_image(frame: Any) -> ImageArray | None:
    if frame is None:
        return None
    try:
        image = np.asarray(frame)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor with gradient, on a GPU
        raise DetectionError(f"frame must be (H, W, 3) uint8 BGR in NumPy, got {type(frame).__name__}") from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise DetectionError(f"frame must be (H, W, 3) uint8 BGR, got {image.shape} {image.dtype}")
    return image
