"""Tracklet: real-time multi-object tracking of people with a learned appearance metric.

    from tracker import Tracker, track_video

The names load on first use, so that importing the package touches no disk, network or GPU and takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Tracker": "tracker.api",
    "track_video": "tracker.api",
    "refine_tracks": "tracker.offline.smoothing",
    "LineCounter": "tracker.analytics.counting",
    "ZoneCounter": "tracker.analytics.counting",
    "CountEvent": "tracker.analytics.counting",
    "open_sink": "tracker.sinks.open",
    "CropSink": "tracker.sinks.crops",
    "EmbeddingSink": "tracker.sinks.embeddings",
    "TrackerConfig": "tracker.config",
    "Tracks": "tracker.types",
    "Detections": "tracker.types",
    "Frame": "tracker.types",
    "Mask": "tracker.types",
    "Source": "tracker.types",
    "TrackletError": "tracker.errors",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tracker' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
