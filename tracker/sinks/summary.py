"""The closing summary: what was found, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tracker.sinks.base import ClosedByWith, LiveFeed
from tracker.types import Frame, Tracks


class SummarySink(ClosedByWith):
    """Counts frames, identities, and boxes by origin; of a live source (`feed`) also how old results are."""

    def __init__(self, feed: LiveFeed | None = None) -> None:
        self._feed = feed
        self._ages_ms: Counter[int] = Counter()
        self.n_frames = 0
        self._n_late = 0  # of a live source, that were only predicted
        self.n_detected = 0
        self.n_proposed = 0
        self.n_occluded = 0
        self.n_predicted = 0
        self.n_interpolated = 0
        self._identities: set[int] = set()

    @property
    def n_identities(self) -> int:
        return len(self._identities)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        proposed, occluded, predicted, interpolated = (
            int(rows.sum()) for rows in (tracks.proposed, tracks.occluded, tracks.predicted, tracks.interpolated)
        )
        self.n_frames += 1
        self._n_late += frame.late
        self.n_proposed += proposed
        self.n_occluded += occluded
        self.n_predicted += predicted
        self.n_interpolated += interpolated
        self.n_detected += len(tracks) - proposed - occluded - predicted - interpolated
        self._identities.update(tracks.id.tolist())
        if self._feed is not None:
            self._ages_ms[round(1000 * self._feed.age_s(frame.time_s))] += 1

    def text(
        self,
        wall_s: float,
        stage_s: Mapping[str, float] | None = None,
        beside_s: Mapping[str, float] | None = None,
        verify: str = "",
    ) -> str:
        """`summary_text` of what was counted."""
        return summary_text(
            n_frames=self.n_frames,
            wall_s=wall_s,
            n_identities=self.n_identities,
            n_detected=self.n_detected,
            n_proposed=self.n_proposed,
            n_occluded=self.n_occluded,
            n_predicted=self.n_predicted,
            n_interpolated=self.n_interpolated,
            stage_s=stage_s or {},
            beside_s=beside_s or {},
            verify=verify,
            live="" if self._feed is None else live_text(self._feed, self._ages_ms, self.n_frames, self._n_late),
        )


def live_text(feed: LiveFeed, ages_ms: Counter[int], n_frames: int, n_late: int) -> str:
    """One line about a live source: the age of its frames when their results were there, what was dropped and lost.

    ages_ms: how many results were so many milliseconds old. n_late: how many of the n_frames were late, see `Frame`.
    """
    came = n_frames + feed.dropped
    late = f"{n_late} of {came} frames predicted to keep pace, " if n_late else ""
    dropped = f"{late}{feed.dropped} of {came} frames dropped for newer ones"
    losses = f", connection lost {feed.losses} times" if feed.losses > 1 else ", connection lost once"
    if not ages_ms:
        return dropped + (losses if feed.losses else "")
    half, most = (_quantile(ages_ms, share) for share in (0.5, 0.95))
    return f"latency {half} ms (95 %: {most} ms), {dropped}" + (losses if feed.losses else "")


def _quantile(counts: Counter[int], share: float) -> int:
    """The least value that this share of all counted values does not exceed."""
    left = share * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts)  # the sum of shares fell short by a rounding


def summary_text(
    *,
    n_frames: int,
    wall_s: float,
    n_identities: int,
    n_detected: int,
    n_proposed: int,
    n_occluded: int = 0,
    n_predicted: int = 0,
    n_interpolated: int = 0,
    stage_s: Mapping[str, float],
    beside_s: Mapping[str, float] | None = None,
    verify: str = "",
    live: str = "",
) -> str:
    """Counts and a table of stages (name -> seconds in all), as text without a line end.

    stage_s: one after the other, so that they sum to the wall time, but for "other"; beside_s: at the same time, each
    in a thread of its own. Shares are of the wall time. verify: what confirmed people. live: what
    `live_text` says of a live source.
    """
    fps = n_frames / wall_s if wall_s > 0 else 0.0
    origins = f"{n_detected} detected" + (f", {n_proposed} proposed" if n_proposed else "")
    origins += f", {n_occluded} occluded" if n_occluded else ""
    origins += f", {n_predicted} predicted between detections" if n_predicted else ""
    origins += f", {n_interpolated} interpolated" if n_interpolated else ""
    facts = [
        ("frames", f"{n_frames}"),
        ("time", f"{wall_s:.2f} s ({fps:.1f} fps)"),
        ("identities", f"{n_identities}"),
        ("boxes", f"{n_detected + n_proposed + n_occluded + n_predicted + n_interpolated} ({origins})"),
    ]
    if verify:
        facts.append(("verify", verify))
    if live:
        facts.append(("live", live))
    lines = [f"{name:<11} {value}" for name, value in facts]
    if not stage_s:
        return "\n".join(lines)
    rest_s = wall_s - sum(stage_s.values())
    rows = [*stage_s.items(), *([("other", rest_s)] if rest_s > 0 else []), ("total", wall_s)]
    rows += [(f"beside: {name}", seconds) for name, seconds in (beside_s or {}).items()]
    name_width = max(len(name) for name in ("stage", *(name for name, _ in rows)))
    lines += ["", f"{'stage':<{name_width}}  {'ms/frame':>9}  {'share':>7}"]
    for name, seconds in rows:
        per_frame_ms = 1000 * seconds / n_frames if n_frames else 0.0
        share = 100 * seconds / wall_s if wall_s > 0 else 0.0
        lines.append(f"{name:<{name_width}}  {per_frame_ms:>9.2f}  {share:>5.1f} %")
    return "\n".join(lines)
