"""Debug record of one step, for the live overlay: built from what the stages returned."""

from __future__ import annotations

import numpy as np

from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.stages.associate import Matches
from tracker.stages.predict import PredictedTracks
from tracker.stages.propose import Proposals
from tracker.stages.select import FrameDetections
from tracker.types import StepTrace


def trace_of(
    tracks: PredictedTracks, dets: FrameDetections, matches: Matches, proposals: Proposals, config: TrackerConfig
) -> StepTrace:
    """The record; the gate has 95 % of the detections of a track. `matches` must have its costs."""
    bank, costs = tracks.bank, matches.costs
    assert costs is not None
    variance = kalman.innovation_variance(bank.mean, bank.cov, config.motion)
    return StepTrace(
        id=bank.id,
        predicted=tracks.boxes,
        gate_px=np.sqrt(kalman.CHI2_95 * variance[:, :2]),
        pair_id=bank.id[costs.track],
        pair_boxes=dets.boxes[costs.detection],
        pair_cost=costs.cost,
        tried=proposals.tried,
        accepted=proposals.boxes,
    )
