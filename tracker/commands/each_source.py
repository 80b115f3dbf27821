"""`track` with several sources: what each of them is called, and where its results go."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracker.errors import ConfigError
from tracker.sinks.open import FORMATS, OUT
from tracker.sinks.registry import Result
from tracker.sources.webcam import camera_name, is_live_spec

if TYPE_CHECKING:
    from tracker.commands.track_options import TrackOptions

PLACE = "{source}"  # stands for the name of the source in the value of an option
_LONGEST_NAME = 60  # characters; file systems take 255 bytes, endings included


def options_of_each(options: TrackOptions) -> list[TrackOptions]:
    """The options of each of the sources. Raises ConfigError for those that have no meaning with several."""
    _check(options)
    return [
        replace(
            options,
            sources=(source,),
            headless=True,
            results=tuple(_result_of(result, name, len(options.sources)) for result in options.results),
        )
        for source, name in zip(options.sources, source_names(options.sources), strict=True)
    ]


def source_names(sources: Sequence[str]) -> list[str]:
    """A name for each source that may be a file name; equal ones get a number, upper and lower case being equal.

    >>> source_names(["a/cam.mp4", "b/Cam.mp4", "rtsp://user:secret@10.0.0.5:554/ch 1?key=2", "0", "MOT16-09/"])
    ['cam', 'Cam-2', '10.0.0.5-554-ch-1', 'webcam-0', 'MOT16-09']
    """
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        plain = re.sub(r"[^\w.]+", "-", _plain_name(source)).strip("-.")[:_LONGEST_NAME] or "source"
        name, count = plain, 1
        while name.lower() in taken:
            count += 1
            name = f"{plain}-{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def _plain_name(source: str) -> str:
    if not is_live_spec(source):
        return Path(source).name if os.path.isdir(source) else Path(source).stem
    if "://" in source:
        address = urlsplit(source)
        return f"{address.netloc.rpartition('@')[2]}{address.path}"  # no password, and no key behind a "?"
    return Path(camera_name(source)).name


def _result_of(result: Result, name: str, n_sources: int) -> Result:
    """The same result for the source of this name."""
    value = result.value
    if value is None:  # lines and zones that are only counted
        return result
    if PLACE in value or (result.file is None and not result.on_stdout):  # an address takes all sources
        return replace(result, value=value.replace(PLACE, name))
    suffix = Path(value).suffix
    if result.option is OUT and not result.on_stdout and suffix.lower() not in FORMATS:  # a folder
        return replace(result, value=str(Path(value) / f"{name}.txt"))
    example = f"{PLACE}{suffix or '.txt'}" if suffix or result.on_stdout else f"{value}/{PLACE}"
    raise ConfigError(
        f"{result} is one result, and there are {n_sources} sources: put {PLACE} into its name, as in "
        f"{result.option.name} {example}"
    )


def _check(options: TrackOptions) -> None:
    refused = {
        "--show": (options.show, "a window shows one source"),
        "--serve": (options.serve is not None, "the live page shows one source"),
        "--resume": (options.resume, "runs of several sources keep no checkpoints"),
        "--smooth": (options.smooth, "track-smooth does the same to finished results"),
        "--fill-gaps": (options.fill_gaps_s is not None, "track-smooth does the same to finished results"),
        "--people": (options.people is not None, "one run at a time writes such a file"),
        "--detections": (options.detections not in (None, "public"), "a file belongs to one source; 'public' works"),
    }
    for option, (given, why) in refused.items():
        if given:
            raise ConfigError(f"{option} is for one source, and there are {len(options.sources)}: {why}")
    if not options.results:
        raise ConfigError("no result was asked for: with several sources, give --out FOLDER")
