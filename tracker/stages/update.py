"""The tracks after a frame: corrected by what was matched or proposed, ended, born, confirmed, and put out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as bx
from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.stages.embed import Looks
from tracker.stages.frame_state import Links, Scene, rows_of
from tracker.stages.identities import Register
from tracker.tracks import lifecycle, occlusion
from tracker.tracks.bank import TrackBank
from tracker.types import IntArray, Source, Tracks


class Updater:
    """Makes the next bank, and the tracks that are put out, of what was decided."""

    def __init__(self, config: TrackerConfig, looks: Looks, register: Register) -> None:
        self._config = config
        self._looks, self._register = looks, register
        self._birth_score = max(config.detection.strong_score, config.lifecycle.birth_score)

    def update(self, scene: Scene, links: Links) -> tuple[TrackBank, Tracks]:
        """The bank after this frame, and its confirmed tracks that are put out, by identity."""
        looked, bank, owner = scene.looked, scene.bank, links.owners(len(scene.seen))
        if np.count_nonzero(links.absorbed):
            # A tentative track turned out to be a lost one: its frames belong to that identity.
            heir = owner[links.inherited[links.absorbed]]
            self._register.identified(bank.key[links.absorbed], bank.id[heir], bank.shown_index[heir])
        bank = self._corrected(scene, links)
        detection, source = links.detection, np.full(len(bank), Source.DETECTED, np.uint8)
        source[links.held] = Source.OCCLUDED if looked else Source.PREDICTED
        source[links.proposed] = Source.PROPOSED
        if looked:
            bank, detection, source = self._alive(scene, links, bank, detection, source)
        bank, detection, source = self._with_births(scene, owner, bank, detection, source)
        self._looks.remember(scene, bank, detection)
        bank = self._confirmed(bank)
        if not looked:
            source[~bank.confirmed] = Source.PREDICTED  # the detector will tell whether they are somebody
        return self._put_out(scene, bank, detection, source)

    def _alive(
        self, scene: Scene, links: Links, bank: TrackBank, detection: IntArray, source: NDArray[np.uint8]
    ) -> tuple[TrackBank, IntArray, NDArray[np.uint8]]:
        """The bank without those that end here, and the columns beside it."""
        life = self._config.lifecycle
        remembered = self._looks.known(bank.slot) & self._config.association.reassociate
        stays = lifecycle.alive(bank, detection >= 0, remembered, scene.now_s, life) & ~links.absorbed
        if np.count_nonzero(stays) == len(bank):
            return bank, detection, source
        self._looks.gallery.give_back(bank.slot[~stays])
        return bank.keep(stays), detection[stays], source[stays]

    def _with_births(
        self, scene: Scene, owner: IntArray, bank: TrackBank, detection: IntArray, source: NDArray[np.uint8]
    ) -> tuple[TrackBank, IntArray, NDArray[np.uint8]]:
        """The bank with new tentative tracks of strong detections that nobody claims; owner (N,) -1: nobody."""
        unclaimed = rows_of((scene.seen.scores >= self._birth_score) & (owner < 0))
        n = len(unclaimed)
        if n == 0:
            return bank, detection, source
        boxes = scene.seen.boxes[unclaimed]
        z = bx.xyxy_to_cxcyah(boxes)
        mean, cov = kalman.initiate(z, self._config.motion)
        born = TrackBank(
            key=self._register.new_keys(n), id=np.zeros(n, np.int64), mean=mean, cov=cov,
            hits=np.ones(n, np.int64), seen_s=np.full(n, scene.now_s), seen_xy=z[:, :2],
            height=occlusion.first_height(boxes), shown_index=np.full(n, -1), score=scene.seen.scores[unclaimed],
            class_id=scene.seen.classes[unclaimed], slot=self._looks.gallery.take_slots(n),
        )  # fmt: skip
        detected = np.full(n, Source.DETECTED, np.uint8)
        return bank.append(born), np.concatenate([detection, unclaimed]), np.concatenate([source, detected])

    def _confirmed(self, bank: TrackBank) -> TrackBank:
        """The bank with identities for those that were detected often enough."""
        fresh = lifecycle.newly_confirmed(bank, self._config.lifecycle)
        n = int(np.count_nonzero(fresh))
        if n == 0:
            return bank
        bank = lifecycle.with_identities(bank, fresh, self._register.new_identities(n))
        self._register.identified(bank.key[fresh], bank.id[fresh], bank.shown_index[fresh])
        return bank

    def _put_out(
        self, scene: Scene, bank: TrackBank, detection: IntArray, source: NDArray[np.uint8]
    ) -> tuple[TrackBank, Tracks]:
        """Confirmed tracks are shown, by identity; tentative ones wait for their confirmation."""
        det_index = np.append(scene.rows, -1)[detection]
        features = self._looks.kept(scene, bank, detection, source == Source.PROPOSED)

        def tracks_of(chosen: IntArray) -> Tracks:
            return Tracks(
                bx.cxcyah_to_xyxy(bank.mean[chosen, :4]), bank.id[chosen], bank.score[chosen], bank.class_id[chosen],
                det_index[chosen], source[chosen], None if features is None else features[chosen],
            )  # fmt: skip

        shown = (detection >= 0) | (source != Source.DETECTED)
        waiting = rows_of(shown & ~bank.confirmed)
        if len(waiting):
            self._register.wait(scene.frame.index, bank.key[waiting], tracks_of(waiting))
        self._register.forget(bank.key[waiting])
        visible = rows_of(shown & bank.confirmed)
        shown_index = bank.shown_index.copy()
        shown_index[visible] = scene.frame.index
        return bank.with_(shown_index=shown_index), tracks_of(visible[bank.id[visible].argsort()])

    # ------------------------------------------------------------------------------------------------------ the filter

    def _corrected(self, scene: Scene, links: Links) -> TrackBank:
        """The bank after the measurements: matched tracks by their detection, proposed ones by the place found."""
        bank, seen, motion, now_s = scene.bank, scene.seen, self._config.motion, scene.now_s
        matched = links.detection >= 0
        links.measured[matched] = seen.boxes[links.detection[matched]]
        self._complete(scene, links)
        rows = rows_of((matched | links.proposed) & ~links.absorbed)
        if len(rows) == 0:
            return bank
        z = bx.xyxy_to_cxcyah(links.measured[rows])
        factor = np.full(len(rows), motion.proposal_noise)
        by_detection = matched[rows]
        factor[by_detection] = kalman.score_noise(seen.scores[links.detection[rows[by_detection]]], motion)
        mean, cov = bank.mean.copy(), bank.cov.copy()
        mean[rows], cov[rows] = kalman.correct(bank.mean[rows], bank.cov[rows], z, motion, factor)

        again = rows_of(links.relinked[rows])
        if len(again):
            # What was predicted through the gap is worth less than the detection: start anew, with the mean velocity.
            mean[rows[again]], cov[rows[again]] = kalman.initiate(z[again], motion)
            gap_s = np.maximum(now_s - bank.seen_s[rows[again]], 1.0 / motion.reference_hz)
            mean[rows[again], 4:6] = (z[again, :2] - bank.seen_xy[rows[again]]) / gap_s[:, None]

        detected = rows_of(matched)
        hits, seen_s, seen_xy = bank.hits.copy(), bank.seen_s.copy(), bank.seen_xy.copy()
        score, class_id, height = bank.score.copy(), bank.class_id.copy(), bank.height.copy()
        height[detected] = occlusion.next_height(height[detected], links.measured[detected])
        hits[detected] += 1
        seen_s[detected] = now_s
        seen_xy[rows[by_detection]] = z[by_detection, :2]
        score[detected] = seen.scores[links.detection[detected]]
        class_id[detected] = seen.classes[links.detection[detected]]
        score[links.proposed] = links.belief[links.proposed]
        return bank.with_(
            mean=mean, cov=cov, hits=hits, seen_s=seen_s, seen_xy=seen_xy, score=score, class_id=class_id, height=height
        )

    def _complete(self, scene: Scene, links: Links) -> None:
        """Boxes of people who were detected in part get their usual width back."""
        config = self._config.occlusion
        if not config.enabled:
            return
        found = (links.detection >= 0) & scene.bank.confirmed
        rows = rows_of(found & ~links.relinked)
        boxes, in_front = links.measured[rows], links.measured[found]
        expected, width = scene.expected.boxes[rows], scene.frame.width
        links.measured[rows] = occlusion.completed(boxes, expected, in_front, width, config)
