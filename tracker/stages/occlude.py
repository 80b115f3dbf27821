"""Who is not detected but known to be there: hidden behind somebody or something, or between two looks."""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import TrackerConfig
from tracker.stages.frame_state import Links, Scene, rows_of
from tracker.tracks import lifecycle, occlusion
from tracker.types import BoolArray, IntArray


class Holder:
    """Says whose prediction stands for them in this frame; learns what hides people."""

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config

    def hold(self, scene: Scene, links: Links) -> None:
        """Mark the tracks whose prediction is put out in this frame."""
        if scene.looked:
            self._hidden(scene, links)
        else:
            self._carry(scene, links)

    def _hidden(self, scene: Scene, links: Links) -> None:
        """Confirmed tracks that are hidden, and by what: their predictions stand for them while they can be trusted."""
        config, bank, now_s = self._config.occlusion, scene.bank, scene.now_s
        if not config.enabled:
            return
        found = bank.confirmed & (links.detection >= 0)
        rows = rows_of(found)
        missed = rows_of(bank.confirmed & ~found & ~links.proposed)
        hidden, twin = self._overlaid(scene, links, missed, rows)
        recent = now_s - bank.seen_s[missed] <= config.max_s + lifecycle.TIME_SLACK_S
        links.held[missed] = recent & hidden & ~twin & occlusion.trusted(bank, config)[missed]

    def _overlaid(self, scene: Scene, links: Links, missed: IntArray, found: IntArray) -> tuple[BoolArray, BoolArray]:
        """Who of the missed tracks (k,) is behind one of those found (rows of confirmed tracks) or proposed, and who
        is nearly in the place of one: the same person, now under another identity. Both (k,)."""
        config, n_tracks, boxes = self._config.occlusion, len(scene.bank), scene.expected.boxes
        others = np.zeros(len(scene.seen), bool)
        others[links.detection[found]] = True
        asked = np.zeros(n_tracks, bool)
        asked[missed] = True
        pairs = scene.expected.pairs.among(asked, others, 0.0)
        share = occlusion.hiding(boxes[pairs.track], scene.seen.boxes[pairs.detection])
        covered, twin = np.full(n_tracks, config.min_cover == 0), np.zeros(n_tracks, bool)
        covered[pairs.track[share >= config.min_cover]] = True
        twin[pairs.track[pairs.iou > config.max_overlap]] = True
        if np.count_nonzero(links.proposed):
            predicted, proposed = boxes[missed], links.measured[links.proposed]
            covered[missed] |= occlusion.covered(predicted, proposed) >= config.min_cover
            twin[missed] |= bx.iou(predicted, proposed).max(axis=1) > config.max_overlap
        return covered[missed], twin[missed]

    def _carry(self, scene: Scene, links: Links) -> None:
        """Who was put out since the detector looked goes on as predicted, while in the picture, unless proposed.

        That C does not propose somebody says little: its limits are strict, for they were made for people missed.
        """
        predicted, frame = scene.expected.boxes, scene.frame
        if frame.width and frame.height:
            predicted = bx.clip(predicted, frame.width, frame.height)
        going = scene.bank.confirmed & (scene.bank.shown_index >= scene.clock.looked_index)
        links.held[:] = going & ~links.proposed & bx.valid(predicted)
