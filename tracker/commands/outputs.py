"""The open sinks of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from time import perf_counter

from tracker.analytics.ground import open_ground
from tracker.analytics.regions import open_counters
from tracker.commands.track_options import NOTHING_ASKED, TrackOptions
from tracker.errors import ConfigError, OutputError
from tracker.pipeline import Pipeline
from tracker.sinks.base import Overlay, Resumable, RunFacts, Sink, utc_now
from tracker.sinks.counts import CountsSink
from tracker.sinks.live_page import LivePage
from tracker.sinks.registry import Result
from tracker.sinks.summary import SummarySink
from tracker.sinks.track_record import TrackRecord
from tracker.sinks.window import WindowSink
from tracker.sources.base import FrameSource
from tracker.sources.webcam import LiveSource
from tracker.types import Frame, State, Tracks


@dataclass
class Outputs:
    """The sinks of a run; `sinks` in the order in which they are fed."""

    tally: SummarySink
    sinks: list[tuple[Result, Sink]] = field(default_factory=list)
    counts: CountsSink | None = None
    window: WindowSink | None = None
    page: LivePage | None = None
    record: TrackRecord | None = None  # of a run that keeps checkpoints
    write_s: float = 0.0  # seconds that writing took so far
    n_undrawn: int = 0  # frames that sinks which need pictures did not get

    def write(self, frame: Frame, tracks: Tracks, hurried: bool = False) -> None:
        """Feed the sinks. hurried: a frame without its picture is kept from sinks that need it."""
        begin = perf_counter()
        undrawn = hurried and frame.image is None
        self.tally.write(frame, tracks)
        for result, sink in self.sinks:
            if not (undrawn and result.option.pictures == "required"):
                sink.write(frame, tracks)
        self.n_undrawn += undrawn and any(result.option.pictures == "required" for result, _ in self.sinks)
        if self.window is not None:
            self.window.write(frame, tracks)
        if self.page is not None:
            self.page.write(frame, tracks)
        if self.record is not None:
            self.record.write(frame, tracks)
        self.write_s += perf_counter() - begin

    def states(self) -> dict[str, State]:
        """How to resume each sink whose file can be continued, by its result; the others are made again."""
        states = {str(result): sink.state() for result, sink in self.sinks if isinstance(sink, Resumable)}
        return {name: state for name, state in states.items() if state is not None}


def open_outputs(
    options: TrackOptions,
    pipeline: Pipeline,
    stack: ExitStack,
    overwrite: bool = False,
    saved: Mapping[str, State] | None = None,
    record: TrackRecord | None = None,
    write_s: float = 0.0,
    started: str | None = None,
) -> Outputs:
    """Open what was asked for; `stack` closes it. Raises ConfigError or OutputError.

    saved, write_s: `Outputs.states` and `write_s` of an interrupted run; None, 0: begin. record: see `Outputs`.
    started: see `RunFacts`; None: now.
    """
    source, resumed, saved = pipeline.source, saved is not None, saved or {}
    feed = source if isinstance(source, LiveSource) else None
    lines, zones = open_counters(
        options.lines, options.zones, source.width, source.height, options.config.lifecycle.lost_s
    )
    run = RunFacts(
        name=source.name,
        width=source.width,
        height=source.height,
        fps=source.fps or options.span.rate(options.fps or options.config.default_fps),
        live=source.live,
        feed=feed,
        class_names=pipeline.class_names,
        lines=lines,
        zones=zones,
        ground=None if options.ground is None else open_ground(options.ground, source.width, source.height),
        gone_s=max(options.config.lifecycle.coast_s, options.config.lifecycle.lost_s),
        overwrite=overwrite,
        resumed=resumed,
        place=_place(source),
        started=started or utc_now(),
        settings=json.dumps({**dataclasses.asdict(options.config), "options": dict(options.compared)}, default=str),
    )
    outputs = Outputs(SummarySink(feed), record=record, write_s=write_s)
    # Those that may refuse to be resumed come before those that are made again: then nothing is lost.
    for result in sorted(options.results, key=lambda each: (str(each) not in saved, not each.option.first)):
        sink = result.option.open(result.value, replace(run, resume=saved.get(str(result))))
        outputs.sinks.append((result, stack.enter_context(sink)))
        if isinstance(sink, CountsSink):
            outputs.counts = sink
            run = replace(run, overlay=sink.draw, counts=sink)
    outputs.window = _open_window(options, pipeline, feed, run.overlay)
    if outputs.window is not None:
        stack.enter_context(outputs.window)
    elif not (options.results or options.serve):  # an address that turned out to be a video file
        raise ConfigError(NOTHING_ASKED)
    if options.serve is not None:
        # A file that makes nothing else is there to be looked at; else there is no reason to slow down.
        paced = feed is None and all(result.value is None for result in options.results)
        page = LivePage(options.serve, run, paced=paced, stopped=lambda: pipeline.stopped)
        outputs.page = stack.enter_context(page)
    if feed is not None:
        window = outputs.window
        feed.on_idle(lambda: (window is None or window.idle()) and not pipeline.stopped)
    return outputs


def _place(source: FrameSource) -> str:
    """The file or folder that a source is read from; a camera's or address's name."""
    if not source.files:
        return source.name
    first = source.files[0].resolve()
    return str(first if len(source.files) == 1 else first.parent)


def _open_window(
    options: TrackOptions, pipeline: Pipeline, feed: LiveSource | None, overlay: Overlay | None
) -> WindowSink | None:
    """The window, if one was asked for, or if the source is live and there is a display."""
    if options.headless or not (options.show or feed is not None):
        return None
    name = pipeline.source.name
    try:
        return WindowSink(
            f"tracklet: {name} (h: keys)", source=name, run=pipeline, feed=feed, overlay=overlay,
            class_names=pipeline.class_names,
        )  # fmt: skip
    except OutputError:
        if options.show or not (options.results or options.serve):
            raise
        return None
