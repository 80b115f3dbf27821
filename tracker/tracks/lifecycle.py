"""Lifecycle of a track: tentative, confirmed, coasting, lost, deleted (docs/method.md, 7).

tentative: from the detection that creates it; deleted at the first frame without one. confirmed: from its
`confirm_hits`th detection. coasting: from the first frame without a detection; motion may still match it, or use B.
lost: from `coast_s` after the last detection, if use B is on and it has an embedding, else it is deleted; use B
alone may find it. deleted: from `lost_s` after the last detection. Ages are times since the last detection, in seconds.
"""

from __future__ import annotations

from tracker.config import LifecycleConfig
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray

# IoU with the box of a track above which a detection creates no track: most are a second box around the same person.
NEW_TRACK_IOU = 0.3
TIME_SLACK_S = 5e-7  # time stamps are sums of rounded steps: half a microsecond must not delete a track


def active(bank: TrackBank, now_s: float, config: LifecycleConfig) -> BoolArray:
    """(T,) tracks that motion may still match: tentative ones, and confirmed ones detected at most coast_s ago."""
    return ~bank.confirmed | _within(bank, now_s, config.coast_s)


def reassociable(bank: TrackBank, matched: BoolArray, now_s: float, config: LifecycleConfig) -> BoolArray:
    """(T,) confirmed tracks without a detection in this frame, coasting or lost, that use B may find again."""
    return bank.confirmed & ~matched & _within(bank, now_s, config.lost_s)


def alive(
    bank: TrackBank, matched: BoolArray, remembered: BoolArray, now_s: float, config: LifecycleConfig
) -> BoolArray:
    """(T,) tracks that are kept after this frame.

    matched (T,): detected in this frame. remembered (T,): appearance could find the track again later, so that it is
    kept for lost_s; the others are deleted after coast_s, and a tentative track after one frame without a detection.
    """
    coasting = _within(bank, now_s, config.coast_s)
    waiting = remembered & _within(bank, now_s, config.lost_s)
    return matched | (bank.confirmed & (coasting | waiting))


def newly_confirmed(bank: TrackBank, config: LifecycleConfig) -> BoolArray:
    """(T,) tentative tracks that have been detected often enough."""
    return ~bank.confirmed & (bank.hits >= config.confirm_hits)


def _within(bank: TrackBank, now_s: float, limit_s: float) -> BoolArray:
    return now_s - bank.seen_s <= limit_s + TIME_SLACK_S
