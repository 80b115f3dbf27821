"""The record of a traced step: what it looked at and what it decided."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracker.association.pairs import Pairs
from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.stages.frame_state import Links, Scene
from tracker.types import FloatArray, IntArray, StepTrace


@dataclass(slots=True)
class Notes:
    """What the stages leave while a step is traced. Off, nothing is noted."""

    on: bool = False
    track: list[IntArray] = field(default_factory=list)  # rows of the tracks paired, one array for each group
    detection: list[IntArray] = field(default_factory=list)  # rows of the detections beside them
    cost: list[FloatArray] = field(default_factory=list)  # (P, 3) as in `StepTrace.pair_cost`
    tried: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))  # (C, 4) xyxy

    def clear(self) -> None:
        """Begin the record of a step."""
        self.track, self.detection, self.cost, self.tried = [], [], [], np.zeros((0, 4))

    def pairs(self, pairs: Pairs, total: FloatArray, look: FloatArray) -> None:
        """Pairs of one group: costs (P,), cost of looks (P,)."""
        self.track.append(pairs.track)
        self.detection.append(pairs.detection)
        self.cost.append(np.stack([total, look, 1.0 - pairs.iou], axis=1))

    def trace(self, scene: Scene, links: Links, config: TrackerConfig) -> StepTrace:
        """The record. The gate is that of use B."""
        bank, limit = scene.bank, config.association.relink_chi2
        variance = kalman.innovation_variance(bank.mean, bank.cov, config.motion)
        none = np.zeros(0, np.int64)
        return StepTrace(
            id=bank.id,
            predicted=scene.expected.boxes,
            gate_px=np.sqrt(limit * variance[:, :2]),
            pair_id=bank.id[np.concatenate([none, *self.track])],
            pair_boxes=scene.seen.boxes[np.concatenate([none, *self.detection])],
            pair_cost=np.concatenate([np.zeros((0, 3)), *self.cost]),
            tried=self.tried,
            accepted=links.measured[links.proposed],
        )
