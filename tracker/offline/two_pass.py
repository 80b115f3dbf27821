"""Track a whole file, refine all of its tracks, and go through it again with the results."""

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

HURRY_S = 0.4  # of refining after Ctrl-C: some 6,000 boxes


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
    """Frames and refined tracks of a pipeline, like the pipeline's own; the first comes after the last was tracked.

    smooth, fill_gaps_s, motion: see `refine_tracks`. reopen: opens the source once more, for the pictures; None: the
    frames come without. watch: is told of each frame as it is tracked. hurried: once it says True, the rest comes
    without pictures, for reading a long source again takes long, and the tracks as they are if refining them does, too.
    What ends the pipeline early (a broken file) is raised at the end, after what had been tracked until then.
    """
    if smooth:
        import_module("filterpy.kalman")  # takes most of a second, which is there now and not where somebody hurries
    frames: list[Frame] = []
    found: list[Tracks] = []
    broken: TrackletError | None = None
    try:
        for frame, tracks in pipeline:
            frames.append(replace(frame, image=None))
            found.append(tracks)
            if watch is not None:
                watch(frame, tracks)
    except TrackletError as error:
        broken = error
    times = [frame.time_s for frame in frames]
    patience = _Patience(hurried)
    refined = refine_tracks(
        found, times, smooth=smooth, fill_gaps_s=fill_gaps_s, motion=motion, give_up=patience.at_end
    )
    if patience.ended:
        log.warning("no time to smooth tracks or fill gaps: they are written as tracked; track-smooth does it later")
    shown = frames if reopen is None else _with_pictures(frames, reopen, hurried)
    yield from zip(shown, refined, strict=True)
    if broken is not None:
        raise broken


class _Patience:
    """That of somebody who hurries: HURRY_S from the first time that `at_end` is asked meanwhile."""

    def __init__(self, hurried: Callable[[], bool]) -> None:
        self._hurried = hurried
        self._until_s = math.inf
        self.ended = False

    def at_end(self) -> bool:
        if self._hurried():
            self._until_s = min(self._until_s, monotonic() + HURRY_S)
        self.ended = monotonic() > self._until_s
        return self.ended


def _with_pictures(
    frames: Sequence[Frame], reopen: Callable[[], FrameSource], hurried: Callable[[], bool]
) -> Iterator[Frame]:
    """The same frames with their images, from the source read once more. Raises SourceError if it has changed."""
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
