"""Kalman prediction: where the tracks of the frame before are expected in this one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tracker import boxes as bx
from tracker.config import LifecycleConfig, MotionConfig
from tracker.motion import kalman
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FloatArray, Frame, State


@dataclass(frozen=True, slots=True)
class Clock:
    """Time of the current frame, and of the frames at which the detector ran. Seconds of the source."""

    now_s: float | None = None  # None before the first frame
    dt_s: float = 0.0  # from the frame before to this one
    detector_ran: bool = False  # at this frame
    detector_s: float | None = None  # time of the last frame at which it ran, this one included
    detector_index: int = -1  # and the index of that frame
    detector_gap_s: float = 0.0  # from the last such frame before this one to this one

    def tick(self, frame: Frame, detector_ran: bool) -> Clock:
        """The clock at the next frame."""
        return Clock(
            now_s=frame.time_s,
            dt_s=0.0 if self.now_s is None else frame.time_s - self.now_s,
            detector_ran=detector_ran,
            detector_s=frame.time_s if detector_ran else self.detector_s,
            detector_index=frame.index if detector_ran else self.detector_index,
            detector_gap_s=0.0 if self.detector_s is None else frame.time_s - self.detector_s,
        )

    def state(self) -> State:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class PredictedTracks:
    """The T tracks known before the frame, predicted to its time."""

    time_s: float  # of the frame
    bank: TrackBank  # T rows; mean and cov are predicted, the other columns are those of the frame before
    boxes: FloatArray  # (T, 4) xyxy of the predicted means
    visible: BoolArray  # (T,) detected when the detector last ran, before this frame
    active: BoolArray  # (T,) motion may match the track: tentative, or detected at most coast_s ago


def predict(bank: TrackBank, clock: Clock, motion: MotionConfig, life: LifecycleConfig) -> PredictedTracks:
    """All tracks of `bank` at the time of `clock`. Boxes of tracks that are not visible keep their size."""
    assert clock.now_s is not None
    visible = clock.now_s - bank.seen_s <= clock.detector_gap_s + lifecycle.TIME_SLACK_S
    mean, cov = kalman.predict(bank.mean, bank.cov, clock.dt_s, motion, ~visible)
    return PredictedTracks(
        time_s=clock.now_s,
        bank=bank.with_(mean=mean, cov=cov),
        boxes=bx.cxcyah_to_xyxy(mean[:, :4]),
        visible=visible,
        active=lifecycle.active(bank, clock.now_s, life),
    )
