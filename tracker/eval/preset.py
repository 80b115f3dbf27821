"""What a search has found, as a settings file for --config that says in comments where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracker.config import TrackerConfig
from tracker.eval import report
from tracker.eval.search import Space, changes
from tracker.eval.sequence_run import SequenceRun
from tracker.eval.tuning import EVERYTHING, Tuning


def preset_text(tuning: Tuning, units: Sequence[SequenceRun], space: Space, command: str, details: str) -> str:
    """The settings that differ from the package's defaults, for --config, and how they were found as comments."""
    best = tuning.found[EVERYTHING]
    lines = [f"# {' '.join(command.splitlines())}", f"# {details}"]
    if not tuning.finished:
        lines.append("# PARTIAL: the search was stopped before its end.")
    lines += ["#", "# Runs (a sequence with its detections), by video:"]
    for video, members in tuning.videos.items():
        looks = ", ".join(units[at].name + ("" if units[at].reid else " (motion alone)") for at in members)
        lines.append(f"#   {video}: {looks}")
    lines += ["#", "# Values tried beside those at the start:"]
    lines += [f"#   {name}: {', '.join(_toml(value) for value in values)}" for name, values in space.items()]
    lines += ["#", "# Leave one out: scores of each video before, and with settings found on all others:"]
    lines += [f"#   {line}" for line in report.as_text(tuning.table).splitlines()] if tuning.rows else ["#   none yet"]
    folds = {video: point for video, point in tuning.found.items() if video != EVERYTHING}
    lines += ["#", f"# Settings found without each video:{'' if folds else ' none yet'}"]
    lines += [f"#   {video}: {told(point.config)}" for video, point in folds.items()]
    lines += [
        "#",
        f"# Below: settings found on all videos; the objective rose from {tuning.start:.2f} to {best.score:.2f} there.",
    ]
    sections: dict[str, list[str]] = {"": []}
    for name, value in changes(best.config, TrackerConfig()).items():
        section, _, short = name.rpartition(".")
        sections.setdefault(section, []).append(f"{short} = {_toml(value)}")
    for section, settings in sections.items():
        lines += ["", f"[{section}]", *settings] if section else ["", *settings] if settings else []
    return "\n".join(lines) + "\n"


def told(config: TrackerConfig) -> str:
    """The settings that differ from the package's defaults, in one line."""
    found = changes(config, TrackerConfig())
    return ", ".join(f"{name} = {_toml(value)}" for name, value in found.items()) or "the defaults"


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    return str(value).lower() if isinstance(value, bool) else repr(value)
