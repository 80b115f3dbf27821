"""Other trackers for the benchmarks, each with its default settings.

An entry of PEERS opens a tracker and returns two functions: `prepare` converts detections to the input of the tracker,
`step` tracks one frame. No package is a dependency: an entry raises NotInstalledError where its package is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from tracker import boxes as bx
from tracker.types import Detections

Peer = tuple[Callable[[Detections], Any], Callable[[Any], object]]


class NotInstalledError(Exception):
    """The text is the name of the package."""


def trackforge_deep_sort() -> Peer:
    tracker = _module("trackforge").DEEPSORT()

    def prepare(detections: Detections) -> Any:
        return _rows(detections), _embeddings(detections).tolist()

    return prepare, lambda given: tracker.update(*given)


def deep_sort_realtime() -> Peer:
    tracker = _module("deep_sort_realtime.deepsort_tracker", "deep-sort-realtime").DeepSort(embedder=None)

    def prepare(detections: Detections) -> Any:
        return _rows(detections), list(_embeddings(detections))

    return prepare, lambda given: tracker.update_tracks(given[0], embeds=given[1])


def trackforge_byte_track() -> Peer:
    tracker = _module("trackforge").BYTETRACK()
    return _rows, tracker.update


def pyxtrackers_byte_track() -> Peer:
    tracker = _module("pyxtrackers").BYTETracker()

    def prepare(detections: Detections) -> Any:
        return np.column_stack([detections.boxes, detections.scores])

    return prepare, tracker.update


def trackers_byte_track() -> Peer:
    tracker, supervision = _module("trackers").ByteTrackTracker(), _module("supervision", "trackers")

    def prepare(detections: Detections) -> Any:
        return supervision.Detections(
            xyxy=detections.boxes, confidence=detections.scores, class_id=detections.classes.astype(int)
        )

    return prepare, tracker.update


def norfair() -> Peer:
    package = _module("norfair")
    tracker = package.Tracker(distance_function="iou", distance_threshold=0.7)

    def prepare(detections: Detections) -> Any:
        return [
            package.Detection(points=box.reshape(2, 2), scores=np.array([score, score]))
            for box, score in zip(detections.boxes, detections.scores, strict=True)
        ]

    return prepare, lambda given: tracker.update(detections=given)


PEERS: dict[str, Callable[[], Peer]] = {
    "trackforge DeepSORT (Rust)": trackforge_deep_sort,
    "deep-sort-realtime": deep_sort_realtime,
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


def _rows(detections: Detections) -> list[tuple[list[float], float, int]]:
    """([left, top, width, height], score, class) of each."""
    boxes, scores = bx.xyxy_to_ltwh(detections.boxes).tolist(), detections.scores.tolist()
    return list(zip(boxes, scores, detections.classes.tolist(), strict=True))


def _embeddings(detections: Detections) -> Any:
    assert detections.features is not None
    return detections.features
