"""How the background moved since the frame before: by the image, or without one by the step that all people share."""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.motion.camera import CameraMotion, SharedMotion
from tracker.stages.frame_state import Scene
from tracker.tracks.bank import TrackBank
from tracker.types import FloatArray, State


class Background:
    """Camera motion of one stream."""

    def __init__(self) -> None:
        self.camera = CameraMotion()
        self.shared_motion = SharedMotion()
        self._detected = np.zeros((0, 4))  # xyxy of the last frame's detections

    def motion(self, scene: Scene, before: TrackBank) -> FloatArray:
        """(2, 3) affine motion from the frame before to this one; before: the bank of that frame."""
        image, detected = scene.frame.image, self._detected
        self._detected = scene.seen.boxes
        if image is None:
            self.camera.step(None, detected)
            return self._shared(scene)
        people = np.concatenate([bx.cxcyah_to_xyxy(before.mean[:, :4]), detected])
        return self.camera.step(image, people)

    def _shared(self, scene: Scene) -> FloatArray:
        known, expected = scene.bank.confirmed & scene.expected.visible, scene.expected
        pairs = expected.pairs.within(known, scene.strong)
        overlapping = (pairs.track, pairs.detection, pairs.iou)
        return self.shared_motion.step(expected.boxes[known], scene.seen.boxes[scene.strong], overlapping)

    def state(self) -> State:
        """All that the motion of later frames depends on."""
        return {
            "camera": self.camera.state(), "shared_motion": self.shared_motion.state(), "detected": self._detected,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        self.camera.restore(state["camera"])
        self.shared_motion.restore(state["shared_motion"])
        self._detected = state["detected"]
