"""The closing summary: what was found, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tracker.sinks.base import ClosedByWith
from tracker.types import Frame, State, Tracks

_COUNTS = ("n_frames", "n_detected", "n_proposed", "n_hidden", "n_predicted")


class TallySink(ClosedByWith):
    """Counts frames, identities, and boxes by origin."""

    def __init__(self) -> None:
        self.n_frames = 0
        self.n_detected = 0
        self.n_proposed = 0
        self.n_hidden = 0
        self.n_predicted = 0
        self.n_interpolated = 0
        self._identities: set[int] = set()

    @property
    def n_identities(self) -> int:
        return len(self._identities)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        proposed, hidden, predicted, interpolated = (
            int(rows.sum()) for rows in (tracks.proposed, tracks.occluded, tracks.predicted, tracks.interpolated)
        )
        self.n_frames += 1
        self.n_proposed += proposed
        self.n_hidden += hidden
        self.n_predicted += predicted
        self.n_interpolated += interpolated
        self.n_detected += len(tracks) - proposed - hidden - predicted - interpolated
        self._identities.update(tracks.id.tolist())

    def state(self) -> State:
        identities = np.array(sorted(self._identities), np.int64)
        return {"identities": identities, **{name: getattr(self, name) for name in _COUNTS}}

    def restore(self, state: State) -> None:
        self._identities = set(state["identities"].tolist())
        for name in _COUNTS:
            setattr(self, name, state[name])

    def text(self, wall_s: float, stage_s: Mapping[str, float] | None = None) -> str:
        """`summary_text` of what was counted."""
        return summary_text(
            n_frames=self.n_frames,
            wall_s=wall_s,
            n_identities=self.n_identities,
            n_detected=self.n_detected,
            n_proposed=self.n_proposed,
            n_hidden=self.n_hidden,
            n_predicted=self.n_predicted,
            n_interpolated=self.n_interpolated,
            stage_s=stage_s or {},
        )


def summary_text(
    *,
    n_frames: int,
    wall_s: float,
    n_identities: int,
    n_detected: int,
    n_proposed: int,
    n_hidden: int = 0,
    n_predicted: int = 0,
    n_interpolated: int = 0,
    stage_s: Mapping[str, float],
) -> str:
    """Counts and a table of stages (name -> seconds in all), as text without a line end.

    Shares are of the wall time. Stages that run beside the others (decoding ahead) can bring the sum above 100 %.
    """
    fps = n_frames / wall_s if wall_s > 0 else 0.0
    origins = f"{n_detected} detected, {n_proposed} proposed" + (f", {n_hidden} behind somebody" if n_hidden else "")
    origins += f", {n_predicted} predicted between detections" if n_predicted else ""
    origins += f", {n_interpolated} interpolated" if n_interpolated else ""
    facts = [
        ("frames", f"{n_frames}"),
        ("time", f"{wall_s:.2f} s ({fps:.1f} fps)"),
        ("identities", f"{n_identities}"),
        ("boxes", f"{n_detected + n_proposed + n_hidden + n_predicted + n_interpolated} ({origins})"),
    ]
    lines = [f"{name:<11} {value}" for name, value in facts]
    if not stage_s:
        return "\n".join(lines)
    rest_s = wall_s - sum(stage_s.values())
    rows = [*stage_s.items(), *([("other", rest_s)] if rest_s > 0 else []), ("total", wall_s)]
    name_width = max(len(name) for name in ("stage", *(name for name, _ in rows)))
    lines += ["", f"{'stage':<{name_width}}  {'ms/frame':>9}  {'share':>7}"]
    for name, seconds in rows:
        per_frame_ms = 1000 * seconds / n_frames if n_frames else 0.0
        share = 100 * seconds / wall_s if wall_s > 0 else 0.0
        lines.append(f"{name:<{name_width}}  {per_frame_ms:>9.2f}  {share:>5.1f} %")
    return "\n".join(lines)
