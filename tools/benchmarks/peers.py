"""Other trackers for the benchmarks, each with its default settings.

No package is a dependency: an entry of PEERS raises NotInstalledError where its package is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from tracker import boxes as bx
from tracker.motion.camera import CameraMotion
from tracker.types import Detections, FloatArray, ImageArray

DEEP_SORT_SCORE = 0.3  # its trackers have no limit of their own; this one is of the authors' command for MOT16


class Peer(NamedTuple):
    """An open tracker: its step, and what is before and after it."""

    prepare: Callable[[Detections, ImageArray | None], Any]  # detections and image of a frame -> input of `step`
    step: Callable[[Any], Any]  # tracks one frame
    boxes: Callable[[Any], FloatArray]  # result of `step` -> (M, 5) x1, y1, x2, y2, identity; below 0: no track yet


class NotInstalledError(Exception):
    """The text is the name of the package."""


def trackforge_track_track() -> Peer:
    """It takes the motion of the camera from its caller; ours is estimated from the image."""
    tracker, camera = _module("trackforge").TRACKTRACK(), CameraMotion()
    people = np.zeros((0, 4))  # in the frame before

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        nonlocal people
        motion, people = camera.step(image, people), detections.boxes
        return _rows(detections), _embeddings(detections).tolist(), motion.ravel().tolist()

    return Peer(prepare, lambda given: tracker.update(*given), _of_trackforge)


def trackforge_deep_sort() -> Peer:
    tracker = _module("trackforge").DEEPSORT()

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        detections = detections.take(detections.scores >= DEEP_SORT_SCORE)
        return _rows(detections), _embeddings(detections).tolist()

    return Peer(prepare, lambda given: tracker.update(*given), _of_trackforge)


def deep_sort_realtime() -> Peer:
    tracker = _module("deep_sort_realtime.deepsort_tracker", "deep-sort-realtime").DeepSort(embedder=None)

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        detections = detections.take(detections.scores >= DEEP_SORT_SCORE)
        return _rows(detections), list(_embeddings(detections))

    def boxes(tracks: Any) -> FloatArray:
        now = [track for track in tracks if track.is_confirmed() and track.time_since_update == 0]
        return _table([[*track.to_ltrb(), int(track.track_id)] for track in now])

    return Peer(prepare, lambda given: tracker.update_tracks(given[0], embeds=given[1]), boxes)


def trackforge_byte_track() -> Peer:
    tracker = _module("trackforge").BYTETRACK()
    return Peer(lambda detections, image: _rows(detections), tracker.update, _of_trackforge)


def pyxtrackers_byte_track() -> Peer:
    tracker = _module("pyxtrackers").BYTETracker()

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        return np.column_stack([detections.boxes, detections.scores])

    return Peer(prepare, tracker.update, lambda rows: _table([row[:5] for row in rows]))


def trackers_byte_track() -> Peer:
    return _of_trackers("ByteTrackTracker")


def trackers_c_biou() -> Peer:
    return _of_trackers("CBIoUTracker")


def trackers_bot_sort() -> Peer:
    """It estimates the motion of the camera from the image."""
    return _of_trackers("BoTSORTTracker", takes_image=True)


def norfair() -> Peer:
    """Objects that had no detection for a few frames are left out: with them, more boxes are added that are false."""
    package = _module("norfair")
    tracker = package.Tracker(distance_function="iou", distance_threshold=0.7)

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        return [
            package.Detection(points=box.reshape(2, 2), scores=np.array([score, score]))
            for box, score in zip(detections.boxes, detections.scores, strict=True)
        ]

    def boxes(tracked: Any) -> FloatArray:
        return _table([[*one.estimate.ravel(), one.id] for one in tracked if one.live_points.any()])

    return Peer(prepare, lambda given: tracker.update(detections=given), boxes)


PEERS: dict[str, Callable[[], Peer]] = {
    "trackforge TrackTrack (Rust)": trackforge_track_track,
    "trackforge DeepSORT (Rust)": trackforge_deep_sort,
    "deep-sort-realtime": deep_sort_realtime,
    "trackers BoT-SORT, boxes alone": trackers_bot_sort,
    "trackers C-BIoU, boxes alone": trackers_c_biou,
    "trackforge ByteTrack (Rust), boxes alone": trackforge_byte_track,
    "pyxtrackers ByteTrack (C), boxes alone": pyxtrackers_byte_track,
    "trackers ByteTrack, boxes alone": trackers_byte_track,
    "norfair, boxes alone": norfair,
}


def _module(name: str, package: str | None = None) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise NotInstalledError(package or name) from error


def _of_trackers(name: str, takes_image: bool = False) -> Peer:
    tracker, supervision = getattr(_module("trackers"), name)(), _module("supervision", "trackers")

    def prepare(detections: Detections, image: ImageArray | None) -> Any:
        given = supervision.Detections(
            xyxy=detections.boxes, confidence=detections.scores, class_id=detections.classes.astype(int)
        )
        return (given, image) if takes_image else (given,)

    def boxes(found: Any) -> FloatArray:
        return np.column_stack([found.xyxy, found.tracker_id])

    return Peer(prepare, lambda given: tracker.update(*given), boxes)


def _of_trackforge(tracks: Any) -> FloatArray:
    """Of (identity, [left, top, width, height], ...) of each."""
    table = _table([[*track[1], track[0]] for track in tracks])
    table[:, :4] = bx.ltwh_to_xyxy(table[:, :4])
    return table


def _table(rows: Any) -> FloatArray:
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def _rows(detections: Detections) -> list[tuple[list[float], float, int]]:
    """([left, top, width, height], score, class) of each."""
    boxes, scores = bx.xyxy_to_ltwh(detections.boxes).tolist(), detections.scores.tolist()
    return list(zip(boxes, scores, detections.classes.tolist(), strict=True))


def _embeddings(detections: Detections) -> Any:
    assert detections.features is not None
    return detections.features
