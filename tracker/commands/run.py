"""What `track` does for its source, and for each of several: open it, give its final frames, print its lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from tracker.runtime.signals import Interruption

if TYPE_CHECKING:
    from tracker.build import SharedNetworks
    from tracker.commands.outputs import Outputs
    from tracker.commands.resume import Checkpoints
    from tracker.commands.track_options import TrackOptions
    from tracker.pipeline import Pipeline
    from tracker.sinks.progress import ProgressSink
    from tracker.types import FloatArray, Frame, Tracks


def open_run_pipeline(options: TrackOptions, shared: SharedNetworks | None = None) -> Pipeline:
    """shared: see `open_pipeline`."""
    from tracker.build import open_pipeline

    return open_pipeline(
        options.source,
        detections=options.detections,
        detector=options.detector,
        reid=options.reid,
        config=options.config,
        device=options.device,
        fps=options.fps,
        classes=options.classes,
        detector_size=options.detector_size,
        layout=options.layout,
        threads=options.threads,
        reconnect_s=options.reconnect_s,
        span=options.span,
        keep_features=any(result.option.embeddings for result in options.results),
        people=options.people,
        shared=shared,
    )


def final_frames(
    options: TrackOptions,
    pipeline: Pipeline,
    checkpoints: Checkpoints | None,
    progress: ProgressSink | None,
    interruption: Interruption,
) -> Iterator[tuple[Frame, Tracks]]:
    """Frames with final tracks, and people hidden in their pictures if that was asked for."""
    people: dict[int, FloatArray] = {}  # where they may be, by the index of frames that are not written yet
    frames = _tracked_frames(options, pipeline, checkpoints, progress, interruption, people)
    if options.blur is None:
        return frames
    from tracker.sinks.blur import blurred_frames

    return blurred_frames(frames, lambda frame, _: people.pop(frame.index), options.blur, pipeline.source.live)


def _tracked_frames(
    options: TrackOptions,
    pipeline: Pipeline,
    checkpoints: Checkpoints | None,
    progress: ProgressSink | None,
    interruption: Interruption,
    people: dict[int, FloatArray],
) -> Iterator[tuple[Frame, Tracks]]:
    """Frames with final tracks, refined in a second pass if that was asked for; progress is that of the tracking.

    people: gets `Pipeline.possible_people` of each frame, by its index, if they are to be hidden.
    """
    if not options.two_passes:
        frames = iter(pipeline) if checkpoints is None else pipeline.frames(checkpoints.between_frames)
        for frame, tracks in frames:
            if options.blur is not None:
                people[frame.index] = pipeline.possible_people
            yield frame, tracks
            if progress is not None:
                progress.write(frame, tracks)
        return
    from tracker.commands.resume import reopened
    from tracker.offline.two_pass import refined_frames

    def watch(frame: Frame, tracks: Tracks) -> None:
        if options.blur is not None:
            people[frame.index] = pipeline.possible_people
        if progress is not None:
            progress.write(frame, tracks)

    yield from refined_frames(
        pipeline,
        smooth=options.smooth,
        fill_gaps_s=options.fill_gaps_s or 0.0,
        motion=options.config.motion,
        reopen=partial(reopened, options) if options.uses_pictures else None,
        watch=watch,
        hurried=lambda: interruption.seen,
    )


def print_summary(options: TrackOptions, pipeline: Pipeline, outputs: Outputs, wall_s: float) -> None:
    """What was found, and what was written."""
    stages = {**pipeline.stage_s, "write": outputs.write_s} if options.profile else {}
    print(outputs.tally.text(wall_s, stages, pipeline.beside_s, pipeline.verify), file=sys.stderr)
    if outputs.counts is not None:
        print(f"\n{outputs.counts.text()}", file=sys.stderr)
    if pipeline.people is not None:
        n = len(pipeline.people.people)
        print(f"people: {pipeline.n_recognised} recognised; {pipeline.people.path} knows {n}", file=sys.stderr)
    for result in options.results:
        if result.file is not None and result.file.exists():
            print(f"wrote {result.value}", file=sys.stderr)


class LogLines(logging.Handler):
    """While open, log records of the package become lines on stderr, above the progress bar if there is one.

    quiet: warnings alone.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._log = logging.getLogger("tracker")

    def __enter__(self) -> LogLines:
        self._before = self._log.level, self._log.propagate
        self._log.setLevel(self.level)
        self._log.propagate = False
        self._log.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.removeHandler(self)
        level, self._log.propagate = self._before
        self._log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # One write: other threads' lines and the progress bar must not come in between.
        tqdm.write(f"track: {record.getMessage()}\n", file=sys.stderr, end="")
