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
) -> Iterator[tuple[Frame, Tracks]]:
    """Frames and refined tracks of a pipeline, like the pipeline's own; the first comes after the last was tracked.

    smooth, fill_gaps_s, motion: see `refine_tracks`. reopen: opens the source once more, for the pictures; None: the
    frames come without. watch: is told of each frame as it is tracked. What ends the pipeline early (a broken file,
    Ctrl-C) is raised at the end, after what had been tracked until then.
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
    yield from zip(frames if reopen is None else _with_pictures(frames, reopen), refined, strict=True)
    if broken is not None:
        raise broken


def _with_pictures(frames: Sequence[Frame], reopen: Callable[[], FrameSource]) -> Iterator[Frame]:
    """The same frames with their images, from the source read once more. Raises SourceError if it has changed."""
    if not frames:
        return
    wanted = iter(frames)
    frame = next(wanted)
    source = reopen()
    ahead = Prefetch(source)
    try:
        for again in ahead:
            if again.index != frame.index:
                continue
            yield replace(frame, image=again.image)
            following = next(wanted, None)
            if following is None:
                return
            frame = following
    finally:
        ahead.close()
    raise SourceError(f"{source.name}: has no frame {frame.index + 1} when read once more; it has changed meanwhile")
