"""Keypoints and masks of detections, joined to the tracks that the detections became."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tracker.types import Detections, FloatArray, MaskArray, State, Tracks, pack_masks, unpack_masks


@dataclass(frozen=True, slots=True)
class Extras:
    """What the detections of one frame have besides boxes; see `Detections`."""

    keypoints: FloatArray | None  # (N, K, 3)
    masks: MaskArray | None  # (N,)

    @staticmethod
    def of(detections: Detections | None) -> Extras | None:
        """None where they have nothing besides."""
        if detections is None or (detections.keypoints is None and detections.masks is None):
            return None
        return Extras(detections.keypoints, detections.masks)

    def joined(self, tracks: Tracks) -> Tracks:
        """The tracks with what belongs to their detections (`det_index`): NaN and None where there is no detection."""
        keypoints, masks = None, None
        found = tracks.det_index >= 0
        rows = tracks.det_index[found]
        if self.keypoints is not None:
            keypoints = np.full((len(tracks), *self.keypoints.shape[1:]), np.nan)
            keypoints[found] = self.keypoints[rows]
        if self.masks is not None:
            masks = np.full(len(tracks), None, object)
            masks[found] = self.masks[rows]
        return replace(tracks, keypoints=keypoints, masks=masks)

    def state(self) -> State:
        return {"keypoints": self.keypoints, "masks": None if self.masks is None else pack_masks(self.masks)}

    @staticmethod
    def restored(state: State) -> Extras:
        return Extras(state["keypoints"], None if state["masks"] is None else unpack_masks(state["masks"]))
