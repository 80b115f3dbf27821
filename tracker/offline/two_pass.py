"""Track a whole file, refine all tracks, then read the file again for outputs that need images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from time import monotonic

from tracker.config import MotionConfig
from tracker.errors import SourceError, TrackletError
from tracker.offline.smoothing import refine_tracks
from tracker.pipeline import Pipeline
from tracker.sources.base import FrameSource
from tracker.sources.prefetch import Prefetch
from tracker.types import Frame, Tracks

log = logging.getLogger(__name__)

GRACE_S = 0.4  # for refining after an interrupt: about 6,000 boxes


def refined_frames(
    pipeline: Pipeline,
    *,
    smooth: bool,
    fill_gaps_s: float,
    motion: MotionConfig,
    reopen: Callable[[], FrameSource] | None = None,
    watch: Callable[[Frame, Tracks], None] | None = None,
    hurried: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Frame, Tracks]]:
    """Yield frames and refined tracks of a pipeline; the first one comes after the last frame was tracked.

    smooth, fill_gaps_s, motion: see `refine_tracks`. reopen: opens the source again, for the images; None: frames have
    no images. watch: called with each frame as it is tracked. hurried: once it returns True (after an interrupt), the
    remaining frames come without images, because reading a long source again takes time, and tracks are not refined if
    that takes longer than GRACE_S. An error that ends the pipeline is raised after all frames tracked before it.
    """
    if smooth:
        import_module("filterpy.kalman")  # takes most of a second, which there is no time for after an interrupt
    frames: list[Frame] = []
    found: list[Tracks] = []
    failure: TrackletError | None = None
    try:
        for frame, tracks in pipeline:
            frames.append(replace(frame, image=None))
            found.append(tracks)
            if watch is not None:
                watch(frame, tracks)
    except TrackletError as error:
        failure = error
    times = [frame.time_s for frame in frames]
    deadline = _Deadline(hurried)
    refined = refine_tracks(
        found, times, smooth=smooth, fill_gaps_s=fill_gaps_s, motion=motion, give_up=deadline.passed
    )
    if deadline.is_over:
        log.warning("no time to smooth tracks or fill gaps: they are written as tracked; track-smooth does it later")
    shown = frames if reopen is None else _with_images(frames, reopen, hurried)
    yield from zip(shown, refined, strict=True)
    if failure is not None:
        raise failure


class _Deadline:
    """Deadline for refinement: GRACE_S after the first call of `passed` that finds `hurried` true."""

    def __init__(self, hurried: Callable[[], bool]) -> None:
        self._hurried = hurried
        self._until_s = math.inf
        self.is_over = False

    def passed(self) -> bool:
        if self._hurried():
            self._until_s = min(self._until_s, monotonic() + GRACE_S)
        self.is_over = monotonic() > self._until_s
        return self.is_over


def _with_images(
    frames: Sequence[Frame], reopen: Callable[[], FrameSource], hurried: Callable[[], bool]
) -> Iterator[Frame]:
    """The same frames with images, from the source read again. Raises SourceError if it has changed."""
    n_shown = 0
    if frames and not hurried():
        with Prefetch(reopen()) as ahead:
            for again in ahead:
                if again.index == frames[n_shown].index:
                    yield replace(frames[n_shown], image=again.image)
                    n_shown += 1
                if n_shown == len(frames) or hurried():
                    break
            else:
                missed = frames[n_shown].index + 1
                raise SourceError(
                    f"{ahead.source.name}: has no frame {missed} when read once more; it has changed meanwhile"
                )
    yield from frames[n_shown:]
