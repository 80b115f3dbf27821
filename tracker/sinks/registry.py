"""All sinks that `track` offers. To add one: declare its `SinkOption` in its own file and list it in SINKS."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker.errors import ConfigError
from tracker.sinks.annotated_video import VIDEO
from tracker.sinks.base import STDOUT, SinkOption
from tracker.sinks.counts import COUNTS
from tracker.sinks.crops import CROPS
from tracker.sinks.embeddings import EMBEDDINGS
from tracker.sinks.events import EMBEDDED_EVENTS, EVENTS
from tracker.sinks.heatmap import HEATMAP
from tracker.sinks.open import OUT
from tracker.sinks.top_view import TOP_VIEW

SINKS: tuple[SinkOption, ...] = (OUT, VIDEO, CROPS, EMBEDDINGS, COUNTS, HEATMAP, TOP_VIEW, EVENTS, EMBEDDED_EVENTS)


@dataclass(frozen=True)
class Result:
    """A sink that was asked for, and the value of its option."""

    option: SinkOption
    value: str | None  # None: a sink that writes nothing, as lines and zones that are only counted

    @property
    def file(self) -> Path | None:
        """The file or folder to write; None for standard output, addresses, and where nothing is written."""
        if self.value is None or self.on_stdout or not self.option.names_file(self.value):
            return None
        return Path(self.value)

    @property
    def on_stdout(self) -> bool:
        return self.option.takes_stdout and self.value == STDOUT

    def __str__(self) -> str:
        """As the user asked for it; in messages, and for its state in a checkpoint."""
        return f"{self.option.name} {self.value}"


def add_sink_options(parser: argparse._ArgumentGroup, group: str) -> None:
    """The options of the sinks of this group, in the order of SINKS."""
    for sink in SINKS:
        if sink.group != group:
            continue
        if sink.repeats:
            parser.add_argument(*sink.flags, metavar=sink.metavar, help=sink.help, action="append", default=[])
        else:
            parser.add_argument(*sink.flags, metavar=sink.metavar, help=sink.help)


def results_of(args: argparse.Namespace) -> tuple[Result, ...]:
    """What the parsed options ask for, in the order of SINKS."""
    results = []
    for sink in SINKS:
        value = getattr(args, sink.name.lstrip("-").replace("-", "_"))
        values = value if sink.repeats else [value]
        results += [Result(sink, each) for each in values if each]
    return tuple(results)


def check_results(results: Sequence[Result], inputs: Sequence[str]) -> None:
    """Raise ConfigError or OutputError for values that cannot be meant, before anything is opened.

    inputs: files that the run reads, which no result may replace.
    """
    for result in results:
        if result.value is not None:
            result.option.check(result.value)
    on_stdout = [result for result in results if result.on_stdout]
    if len(on_stdout) > 1:
        a, b = on_stdout[0].option.name, on_stdout[1].option.name
        if a == b:
            raise ConfigError(f"{a} - is there twice; standard output takes one result")
        raise ConfigError(f"standard output takes one result: only one of {a} and {b} can be -")
    read = {Path(name).resolve() for name in inputs}
    claimed: dict[Path, str] = {}
    for result in results:
        if result.file is None:
            continue
        place, option = result.file.resolve(), result.option.name
        if place in read:
            raise ConfigError(f"{option} would replace an input: {result.value}")
        if place in claimed:
            raise ConfigError(f"{claimed[place]} and {option} name the same file: {result.value}")
        claimed[place] = option


def check_free(results: Sequence[Result], overwrite: bool) -> None:
    """Raise OutputError for the first result that cannot be created: it exists, or its folder does not.

    All are checked before any is opened: a file created beside one that cannot be would block the next attempt.
    """
    for result in results:
        if result.file is not None:
            result.option.check_free(result.file, overwrite)
