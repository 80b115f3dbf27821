"""Run an engine over a stream and read its output."""

from __future__ import annotations

import numpy as np

from tests.oracles.streams import Stream
from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.finalise import FrameBuffer
from tracker.sinks.mot_txt import mot_lines
from tracker.types import Tracks

OFF = {"association.veto": False, "association.reassociate": False, "proposals.verify": "off"}
PLAIN = {**OFF, "motion.camera": False}  # the camera motion depends on the frames before
SHORT = {"lifecycle.coast_s": 1.0}  # for streams with longer gaps, which motion alone must not close


def config_of(settings=(), **more) -> TrackerConfig:
    return TrackerConfig().override({**dict(settings), **{k.replace("__", "."): v for k, v in more.items()}})


def run(stream: Stream, settings=(), *, engine: Engine | None = None, images=None) -> list[Tracks]:
    """The tracks that each step returns."""
    engine = engine or Engine(config_of(settings))
    images = images or [None] * len(stream)
    return [engine.step(stream.frame(t, images[t]), stream.detections[t]) for t in range(len(stream))]


def run_settled(stream: Stream, settings=(), *, engine: Engine | None = None, images=None) -> list[Tracks]:
    """The final tracks of each frame, with the backfilled frames of confirmed tracks."""
    engine = engine or Engine(config_of(settings))
    images = images or [None] * len(stream)
    settler = FrameBuffer()
    final = []
    for t in range(len(stream)):
        tracks = engine.step(stream.frame(t, images[t]), stream.detections[t])
        final += settler.push(stream.frame(t), tracks, engine.backfilled, engine.settled_before)
    final += settler.flush()
    assert [frame.index for frame, _ in final] == list(range(len(stream)))
    return [tracks for _, tracks in final]


def text(outputs: list[Tracks]) -> str:
    """The MOT file of these frames."""
    return "".join(mot_lines(index, tracks) for index, tracks in enumerate(outputs))


def same(a: list[Tracks], b: list[Tracks]) -> bool:
    """Equal in every column of every frame, to the last bit."""
    columns = ("xyxy", "id", "score", "class_id", "det_index", "source")
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, name), getattr(y, name)) for x, y in zip(a, b, strict=True) for name in columns
    )
