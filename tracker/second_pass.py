"""Track a whole file, refine all of its tracks, and go through it again with the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tracker.config import MotionConfig
from tracker.errors import SourceError, TrackletError
from tracker.offline import refine_tracks
from tracker.pipeline import Pipeline
from tracker.sources.base import FrameSource
from tracker.sources.prefetch import Prefetch
from tracker.types import Frame, Tracks


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
    without pictures, for reading a long source again takes long. What ends the pipeline early (a broken file, Ctrl-C)
    is raised at the end, after what had been tracked until then.
    """
    frames: list[Frame] = []
    found: list[Tracks] = []
    broken: BaseException | None = None
    try:
        for frame, tracks in pipeline:
            frames.append(replace(frame, image=None))
            found.append(tracks)
            if watch is not None:
                watch(frame, tracks)
    except (TrackletError, KeyboardInterrupt) as error:
        broken = error
    times = [frame.time_s for frame in frames]
    refined = refine_tracks(found, times, smooth=smooth, fill_gaps_s=fill_gaps_s, motion=motion)
    shown = frames if reopen is None else _with_pictures(frames, reopen, hurried)
    yield from zip(shown, refined, strict=True)
    if broken is not None:
        raise broken


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
                raise SourceError(f"{ahead.name}: has no frame {missed} when read once more; it has changed meanwhile")
    yield from frames[n_shown:]
