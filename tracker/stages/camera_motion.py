"""Camera motion compensation: how the background moved since the frame before, and the tracks along with it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tracker import boxes as bx
from tracker.association.pairs import Overlaps
from tracker.motion import kalman
from tracker.motion.camera import CameraMotion, SharedMotion, still
from tracker.stages.predict import PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks.bank import TrackBank
from tracker.types import FloatArray, ImageArray, State


class CameraEstimator:
    """Camera motion of one stream: from the images, or without images from the motion that all tracks share."""

    def __init__(self) -> None:
        self._by_image = CameraMotion()
        self._by_tracks = SharedMotion()
        self._detected = np.zeros((0, 4))  # (N, 4) xyxy detections of the frame before

    def estimate(
        self,
        image: ImageArray | None,
        before: TrackBank,
        tracks: PredictedTracks,
        dets: FrameDetections,
        overlaps: Overlaps,
    ) -> FloatArray | None:
        """(2, 3) similarity that takes pixels of the frame before to this one; None where the camera stands still.

        image (H, W, 3) uint8 BGR; before: the tracks as they were in the frame before, which are masked as foreground.
        """
        if image is not None:
            people = np.concatenate([bx.cxcyah_to_xyxy(before.mean[:, :4]), self._detected])
            motion = self._by_image.step(image, people)
        else:
            self._by_image.step(None, self._detected)
            known = tracks.bank.confirmed & tracks.visible
            pairs = overlaps.detections.within(known, dets.high)
            overlapping = (pairs.track, pairs.detection, pairs.iou)
            motion = self._by_tracks.step(tracks.boxes[known], dets.boxes[dets.high], overlapping)
        self._detected = dets.boxes
        return motion if np.count_nonzero(motion != still()) else None

    def state(self) -> State:
        """All that the motion of later frames depends on."""
        return {"by_image": self._by_image.state(), "by_tracks": self._by_tracks.state(), "detected": self._detected}

    def restore(self, state: State) -> None:
        self._by_image.restore(state["by_image"])
        self._by_tracks.restore(state["by_tracks"])
        self._detected = state["detected"]


def compensate(tracks: PredictedTracks, motion: FloatArray) -> PredictedTracks:
    """The predicted tracks in the pixels of this frame; motion (2, 3) from `CameraEstimator.estimate`."""
    bank = tracks.bank
    mean, cov = kalman.moved_by_camera(bank.mean, bank.cov, motion)
    bank = bank.with_(mean=mean, cov=cov, seen_xy=bank.seen_xy @ motion[:, :2].T + motion[:, 2])
    return dataclasses.replace(tracks, bank=bank, boxes=bx.cxcyah_to_xyxy(mean[:, :4]))
