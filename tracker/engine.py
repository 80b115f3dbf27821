"""The loop: one frame's detections in, identities out. Wires the stages and owns the state.

Start reading at `Engine.step`: each line is a stage. The method is that of Thoreau & Kottege, "Improving Online
Multiple Object tracking with Deep Metric Learning", 2018, https://arxiv.org/abs/1806.07592. Its abstract fixes the
three uses of a learned appearance metric: (A) to prevent identity switches, (B) to associate tracklets through
occlusion, (C) to propose detections where the detector failed, with the predicted state of the tracklet as a prior.
How each is done in detail is our reconstruction ("methods 05" in the comments).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as bx
from tracker.appearance import economy
from tracker.appearance.gallery import Gallery
from tracker.appearance.online_metric import OnlineMetric, frame_triplets
from tracker.association import costs
from tracker.association.assignment import assign, assign_pairs
from tracker.association.pairs import Pairs
from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.motion.camera import CameraMotion, SharedMotion, still
from tracker.proposals import prior, verify, window
from tracker.tracks import lifecycle, occlusion
from tracker.tracks.bank import TrackBank
from tracker.tracks.scenery import Scenery
from tracker.types import (
    BoolArray,
    Detections,
    FeatureArray,
    FloatArray,
    Frame,
    FrameTracks,
    ImageArray,
    IntArray,
    Source,
    State,
    StepTrace,
    Tracks,
)

# Where neither the settings nor a model's metadata give thresholds (embeddings handed in by the caller):
# the values of the simulation in methods 05 §5.
FALLBACK_TAU_SAME, FALLBACK_TAU_DIFF, FALLBACK_SIGMA = 0.45, 0.65, 0.15


# Attributes of an Engine that are plain numbers or None and go from step to step.
_COUNTERS = ("n_crops", "n_ids", "_n_keys", "_now_s", "_looked_s", "_looked_index", "_gap_s", "_dim")


class Encoder(Protocol):
    """Turns boxes of an image into unit-length embeddings; `appearance/encoder.py` runs the re-ID network."""

    name: str  # for the summary

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """image (H, W, 3) uint8 BGR, boxes (N, 4) xyxy -> (N, D) float32, unit rows."""
        ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosine distances that decide about identity, resolved from settings and the model's calibration."""

    same: float  # below: the same person (1 % of different people are nearer)
    diff: float  # above: somebody else (1 % of the pairs of one person are farther)
    sigma: float  # spread of the distances of one person


@dataclass(slots=True)
class _Links:
    """What a frame decides about each track of the predicted bank."""

    detection: IntArray  # (T,) row of the detection matched, -1 none
    relinked: BoolArray  # (T,) use B matched it: the filter starts anew
    absorbed: BoolArray  # (T,) a tentative track that turned out to be a lost one
    inherited: IntArray  # (T,) the detection that an absorbed track handed over, -1 none
    proposed: BoolArray  # (T,) use C found it
    held: BoolArray  # (T,) known to be hidden: its prediction stands for it
    measured: FloatArray  # (T, 4) box of the detection or proposal
    belief: FloatArray  # (T,) score of a proposal

    @staticmethod
    def none(n: int) -> _Links:
        nothing, no = np.full(n, -1, np.int64), np.zeros(n, bool)
        return _Links(nothing, no, no.copy(), nothing.copy(), no.copy(), no.copy(), np.zeros((n, 4)), np.zeros(n))

    def owners(self, n_detections: int) -> IntArray:
        """(N,) row of the track that holds each detection, -1 none."""
        owner = np.full(n_detections, -1, np.int64)
        held = _rows(self.detection >= 0)
        owner[self.detection[held]] = held
        return owner

    def relink(self, lost: IntArray, detections: IntArray, owner: IntArray) -> None:
        """Give detections to lost tracks; the tentative tracks that held them are absorbed."""
        tentative = owner[detections]
        held = tentative >= 0
        self.absorbed[tentative[held]] = True
        self.inherited[tentative[held]] = detections[held]
        self.detection[tentative[held]] = -1
        self.detection[lost] = detections
        self.relinked[lost] = True


@dataclass(frozen=True, slots=True)
class _Expected:
    """Where the tracks of the predicted bank should be in this frame, and what was detected there."""

    boxes: FloatArray  # (T, 4) xyxy
    visible: BoolArray  # (T,) detected when the detector last looked, before this frame
    pairs: Pairs  # of tracks and detections whose boxes share area
    near: tuple[IntArray, IntArray]  # (P,) rows of tracks whose boxes share area, each pair once


@dataclass(slots=True)
class _Notes:
    """What the stages of a traced step leave for `Engine.trace`."""

    track: list[IntArray] = field(default_factory=list)  # rows of the tracks paired, one array for each group
    detection: list[IntArray] = field(default_factory=list)  # rows of the detections beside them
    cost: list[FloatArray] = field(default_factory=list)  # (P, 3) as in `StepTrace.pair_cost`
    tried: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))  # (C, 4) xyxy

    def pairs(self, pairs: Pairs, total: FloatArray, look: FloatArray) -> None:
        """Pairs of one group: costs (P,), cost of looks (P,)."""
        self.track.append(pairs.track)
        self.detection.append(pairs.detection)
        self.cost.append(np.stack([total, look, 1.0 - pairs.iou], axis=1))


def _rows(mask: BoolArray) -> IntArray:
    """Where a mask (n,) is True."""
    return mask.nonzero()[0]


class _Timed:
    """`with _Timed(...)`: adds the seconds inside to one stage."""

    __slots__ = ("_stage", "_stage_s", "_start")

    def __init__(self, stage_s: dict[str, float], stage: str) -> None:
        self._stage_s, self._stage = stage_s, stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._stage_s[self._stage] = self._stage_s.get(self._stage, 0.0) + perf_counter() - self._start


class Engine:
    """Tracks of one stream. Deterministic; the output of a frame never depends on later frames."""

    def __init__(
        self,
        config: TrackerConfig,
        encoder: Encoder | None = None,
        thresholds: Thresholds | None = None,
        detector: window.WindowDetector | None = None,
        keep_features: bool = False,
    ) -> None:
        """detector: asked again about windows of the frame, for use C; None where detections only come in.

        keep_features: put the embeddings of the people of a frame into its tracks, see `Tracks.features`.
        """
        self.config = config
        look = config.appearance
        self.metric = OnlineMetric(look.online_rate, look.online_reach) if look.online else None
        self.attach(encoder, thresholds)
        self.detector = detector
        self._keep_features = keep_features
        self._dim: int | None = None  # of the features kept
        self.bank = TrackBank.empty()
        self.gallery = Gallery(look.gallery_size, self.metric)
        self.camera = CameraMotion()
        self.shared_motion = SharedMotion()
        self.scenery = Scenery(config.occlusion)
        self.backfilled: list[FrameTracks] = []  # earlier frames of the tracks confirmed by the last step
        self.stage_s: dict[str, float] = {}  # seconds spent in each stage so far
        self.n_crops = 0
        self.n_ids = 0
        self.tracing = False  # True: every step leaves what it looked at and decided in `trace`
        self.trace: StepTrace | None = None  # of the last step, if it was asked for
        self._notes = _Notes()
        self._now_s: float | None = None
        self._looked_s: float | None = None  # time of the last frame at which the detector looked
        self._looked_index = -1  # and its index
        self._gap_s = 0.0  # from the last such frame before this one to this one
        self._detected = np.zeros((0, 4))  # xyxy of the last frame's detections
        self._copied = np.zeros(0, bool)  # (N,) this frame's detections that count as looking as they did last time
        self._n_keys = 0
        # Rows of tentative tracks in the frames before, with their keys; from the first that is still undecided on.
        self._tentative: deque[tuple[int, IntArray, Tracks]] = deque()

    def attach(self, encoder: Encoder | None, thresholds: Thresholds | None = None) -> None:
        """Make embeddings with this encoder from the next step on; settings win over the thresholds it brings."""
        self.encoder = encoder
        if self.metric is not None:
            self.metric.reset()  # it learned for the embeddings of another network
        known = thresholds or Thresholds(FALLBACK_TAU_SAME, FALLBACK_TAU_DIFF, FALLBACK_SIGMA)
        look = self.config.appearance
        self.thresholds = Thresholds(
            known.same if look.tau_same is None else look.tau_same,
            known.diff if look.tau_diff is None else look.tau_diff,
            known.sigma if look.sigma_same is None else look.sigma_same,
        )

    def step(self, frame: Frame, detections: Detections | None) -> Tracks:
        """Advance to this frame and return the confirmed tracks that were detected or proposed in it.

        detections: None if the detector did not look at this frame, which is another thing than finding nobody. Then
        ages stand still, nobody is born, missed or ends, and nothing is learned; who was put out last stays, where use
        C finds them by their looks or, failing that, where the filter predicts them.

        Times must grow from frame to frame. `detections.features` may hold embeddings made elsewhere; then no network
        runs, and appearance confirms no proposal. Without them the encoder makes them from the image, and without an
        image motion decides alone.
        """
        looked = detections is not None
        detections = Detections.empty() if detections is None else detections
        image = frame.image if self.encoder is not None and detections.features is None else None
        self.backfilled = []
        if self.tracing:
            self._notes = _Notes()
        with self._timed("predict"):
            bank = self._predicted(frame, looked)
            seen, rows, covered = self._selected(detections)
        with self._timed("camera"):
            bank, expected = self._steadied(bank, seen, frame.image)
        with self._timed("embed"):
            seen = self._embedded(image, seen, bank)
        with self._timed("associate"):
            links = self._associated(bank, seen, expected)  # use A of the metric lives here
        with self._timed("re-associate"):
            self._reassociate(bank, seen, links, image)  # use B
        with self._timed("propose"):
            self._propose(bank, seen, links, frame, image, looked)  # use C
        with self._timed("hold"):
            if looked:
                self._hold(bank, seen, links, frame, expected)
            else:
                self._carry(bank, links, frame, expected)
        self._detected = seen.boxes
        self.trace = self._traced(bank, seen, links, expected) if self.tracing else None
        with self._timed("update"):
            return self._updated(bank, seen, rows, covered, links, frame, image, looked, expected)

    @property
    def settled_before(self) -> int | None:
        """Index of the first frame that a later confirmation can still add to; None if there is no such frame."""
        if not self._tentative:
            return None
        waiting = set(self.bank.key[~self.bank.confirmed].tolist())
        return next((index for index, keys, _ in self._tentative if not waiting.isdisjoint(keys.tolist())), None)

    def state(self) -> State:
        """All that the tracks of later frames depend on besides settings and networks; valid until the next step."""
        return {
            "bank": self.bank.state(),
            "gallery": self.gallery.state(),
            "metric": None if self.metric is None else self.metric.state(),
            "camera": self.camera.state(),
            "shared_motion": self.shared_motion.state(),
            "scenery": self.scenery.state(),
            "detected": self._detected,
            "tentative": [{"index": i, "keys": keys, "tracks": rows.state()} for i, keys, rows in self._tentative],
            "stage_s": self.stage_s,
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self, state: State) -> None:
        """Go on as the engine that gave this state; this one has the same settings and networks, and took no step."""
        self.bank = TrackBank.restored(state["bank"])
        self.gallery.restore(state["gallery"])
        if self.metric is not None:
            self.metric.restore(state["metric"])
        self.camera.restore(state["camera"])
        self.shared_motion.restore(state["shared_motion"])
        self.scenery.restore(state["scenery"])
        self._detected = state["detected"]
        kept = ((late["index"], late["keys"], Tracks.restored(late["tracks"])) for late in state["tentative"])
        self._tentative = deque(kept)
        self.stage_s = state["stage_s"]
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def _timed(self, stage: str) -> _Timed:
        return _Timed(self.stage_s, stage)

    # ---------------------------------------------------------------------------------------- before association

    def _predicted(self, frame: Frame, looked: bool) -> TrackBank:
        now_s = frame.time_s
        dt_s = 0.0 if self._now_s is None else now_s - self._now_s
        self._gap_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._now_s = now_s
        if looked:
            self._looked_s, self._looked_index = now_s, frame.index
        mean, cov = kalman.predict(self.bank.mean, self.bank.cov, dt_s, self.config.motion, ~self._visible(self.bank))
        return self.bank.with_(mean=mean, cov=cov)

    def _visible(self, bank: TrackBank) -> BoolArray:
        """(T,) tracks that were detected when the detector last looked, before this frame."""
        return (self._now_s or 0.0) - bank.seen_s <= self._gap_s + lifecycle.TIME_SLACK_S

    def _expected(self, bank: TrackBank, seen: Detections) -> _Expected:
        boxes, link = bx.cxcyah_to_xyxy(bank.mean[:, :4]), self.config.association
        i, j = bx.meeting_among(np.concatenate([boxes, seen.boxes]))
        if min(link.min_iou, link.min_iou_weak) > 0:
            track, detection = bx.across(i, j, len(bank), len(seen))
        else:  # also those that do not meet
            track, detection = np.ones((len(bank), len(seen)), bool).nonzero()
        among = j < len(bank)
        pairs = Pairs.of(boxes, seen.boxes, track, detection)
        return _Expected(boxes, self._visible(bank), pairs, (i[among], j[among]))

    def _steadied(self, bank: TrackBank, seen: Detections, image: ImageArray | None) -> tuple[TrackBank, _Expected]:
        """The predicted bank, moved along with the background if the camera moved since the frame before."""
        expected = self._expected(bank, seen)
        if not self.config.motion.camera:
            return bank, expected
        before = self._detected
        if image is not None:  # where people were in the frame before
            before = np.concatenate([bx.cxcyah_to_xyxy(self.bank.mean[:, :4]), before])
        motion = self.camera.step(image, before)
        if image is None:
            known, strong = bank.confirmed & expected.visible, self._strong(seen)
            pairs = expected.pairs.within(known, strong)
            overlapping = (pairs.track, pairs.detection, pairs.iou)
            motion = self.shared_motion.step(expected.boxes[known], seen.boxes[strong], overlapping)
        if not np.count_nonzero(motion != still()):
            return bank, expected
        self.scenery.forget()  # it knew another view
        mean, cov = kalman.moved_by_camera(bank.mean, bank.cov, motion)
        bank = bank.with_(mean=mean, cov=cov, seen_xy=bank.seen_xy @ motion[:, :2].T + motion[:, 2])
        return bank, self._expected(bank, seen)

    def _selected(self, detections: Detections) -> tuple[Detections, IntArray, BoolArray]:
        """Detections above the weak score after non-maximum suppression, and their rows in what was given.

        They come out by descending score, so that shuffled detections give the same tracks. Also (N,) True for those
        of which another one covers too much to remember how they look.
        """
        usable = _rows(detections.scores >= self.config.detection.weak_score)
        rows = usable[bx.by_score(detections.boxes[usable], detections.scores[usable])]
        boxes = detections.boxes[rows]
        i, j = bx.meeting_among(boxes)
        common, own = bx.paired_intersection(boxes[i], boxes[j]), bx.area(boxes)
        size, other = own[i], own[j]
        kept = bx.best_alone(len(rows), i, j, common / (size + other - common) > self.config.detection.nms_iou)
        covered, limit = np.zeros(len(rows), bool), self.config.appearance.max_cover
        both = kept[i] & kept[j]
        covered[i[both & (common / size > limit)]] = True
        covered[j[both & (common / other > limit)]] = True
        rows = rows[kept]
        return detections.take(rows), rows, covered[kept]

    def _embedded(self, image: ImageArray | None, seen: Detections, bank: TrackBank) -> Detections:
        self._copied = np.zeros(len(seen), bool)
        link = self.config.association
        wanted = link.appearance_weight > 0 or link.veto or link.reassociate or self.config.proposals.enabled
        wanted |= self._keep_features
        if image is None or not wanted:
            return seen
        owner = self._plain(bank, seen)
        self._copied = (owner >= 0) & self._strong(seen)
        looked_at = _rows(self._strong(seen) & ~self._copied)
        embedded = self._embed(image, seen.boxes[looked_at]) if len(looked_at) else None
        copied = self.gallery.latest(bank.slot[owner[self._copied]]) if self._copied.any() else None
        known = copied if embedded is None else embedded
        if known is None:
            return seen
        features = np.zeros((len(seen), known.shape[1]), np.float32)  # weak ones are never compared or stored
        if embedded is not None:
            features[looked_at] = embedded
        if copied is not None:
            features[self._copied] = copied
        return seen.with_features(features)

    def _plain(self, bank: TrackBank, seen: Detections) -> IntArray:
        """(N,) row of the track that motion alone gives each detection to, without a doubt; -1 where looks may matter.

        A metric that learns from the stream, and a gate that may forbid any pair, are given all there is to see.
        """
        look, now_s = self.config.appearance, self._now_s or 0.0
        if look.refresh_s == 0 or look.online or self.config.association.gate_chi2 is not None:
            return np.full(len(seen), -1, np.int64)
        known = self.gallery.counts(bank.slot) >= self.config.association.min_gallery
        due = now_s - self.gallery.looked_s(bank.slot) >= look.refresh_s - lifecycle.TIME_SLACK_S
        # Only who was seen last time, too: a track that may be hidden must not take the detection of who hides it.
        settled = bank.confirmed & self._visible(bank) & known & ~due
        active = np.flatnonzero(lifecycle.active(bank, now_s, self.config.lifecycle))
        predicted = bx.cxcyah_to_xyxy(bank.mean[active, :4])
        owner = economy.plain(predicted, seen.boxes, settled[active], look)
        return np.where(owner >= 0, np.append(active, -1)[owner], -1)

    def _embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        assert self.encoder is not None
        self.n_crops += len(boxes)
        return self.encoder.embed(image, boxes)

    @property
    def _birth_score(self) -> float:
        return max(self.config.detection.strong_score, self.config.lifecycle.birth_score)

    def _strong(self, seen: Detections) -> BoolArray:
        return seen.scores >= self.config.detection.strong_score

    # ------------------------------------------------------------------------------------------------ association

    def _associated(self, bank: TrackBank, seen: Detections, expected: _Expected) -> _Links:
        link = self.config.association
        links = _Links.none(len(bank))
        active = lifecycle.active(bank, self._now_s or 0.0, self.config.lifecycle)
        strong = self._strong(seen)
        free = strong.copy()
        for group in (active & bank.confirmed, ~bank.confirmed):  # who is known comes first
            if not np.count_nonzero(group):
                continue
            pairs = expected.pairs.among(group, free, link.min_iou)
            if len(pairs):
                pairs = self._possible(bank, seen, pairs, group, expected)
                pairs = pairs.keep(self._matched(bank, seen, pairs, group))
                links.detection[pairs.track] = pairs.detection
                free[pairs.detection] = False

        left = active & bank.confirmed & (links.detection < 0)
        pairs = expected.pairs.among(left, ~strong, link.min_iou_weak)
        if len(pairs):
            pairs = pairs.keep(assign_pairs(pairs.track, pairs.detection, 1.0 - pairs.iou))
            if self.tracing:
                self._notes.pairs(pairs, 1.0 - pairs.iou, self._look_cost(bank.slot[pairs.track], None))
            links.detection[pairs.track] = pairs.detection
        return links

    def _possible(
        self, bank: TrackBank, seen: Detections, pairs: Pairs, group: BoolArray, expected: _Expected
    ) -> Pairs:
        """Pairs of the group without those that a hidden track would steal, and those beyond the gate."""
        unseen = group & ~expected.visible
        if self.config.occlusion.enabled and np.count_nonzero(unseen):
            front = group & expected.visible
            occluder = occlusion.occluder(expected.boxes, unseen, front, *expected.near, self.config.occlusion)
            detected = seen.boxes[pairs.detection]
            pairs = pairs.keep(~occlusion.stolen(pairs.track, pairs.iou, detected, expected.boxes, occluder))
        limit = self.config.association.gate_chi2
        if limit is None:
            return pairs
        return pairs.keep(self._mahalanobis_sq(bank, seen.boxes)[pairs.track, pairs.detection] <= limit)

    def _matched(self, bank: TrackBank, seen: Detections, pairs: Pairs, group: BoolArray) -> IntArray:
        """Which pairs of the group belong together, by overlap and looks: (k,)."""
        link = self.config.association
        if seen.features is None:
            cost, look = 1.0 - pairs.iou, None
            chosen = assign_pairs(pairs.track, pairs.detection, cost)
        else:
            look = self.gallery.dist_pairs(bank.slot[pairs.track], seen.features[pairs.detection])
            cost = costs.fuse(pairs.iou, *self._weighed(bank, seen, pairs, group, look))
            chosen = assign_pairs(pairs.track, pairs.detection, cost)
            if link.veto:
                chosen = self._unvetoed(bank, seen, pairs, chosen, look)
        if self.tracing:
            by_looks = self._look_cost(bank.slot[pairs.track[chosen]], None if look is None else look[chosen])
            self._notes.pairs(pairs.keep(chosen), cost[chosen], by_looks)
        return chosen

    def _weighed(
        self, bank: TrackBank, seen: Detections, pairs: Pairs, group: BoolArray, look: FloatArray
    ) -> tuple[FloatArray, float]:
        """(P,) distance of looks as it counts for the cost, and its weight; look (P,): to the gallery of the track.

        A track without a gallery is taken to look like the least alike of those of the group that have one: whom
        appearance recognises goes first, and an embedding that calls everybody alike changes nothing.
        """
        weight = self.config.association.appearance_weight
        known = self.gallery.counts(bank.slot) > 0
        unknown = (~known[pairs.track]).nonzero()[0]
        if weight == 0 or len(unknown) == 0:
            return look, weight
        others = bank.slot[group & known]
        if len(others) == 0:
            return look, 0.0
        assert seen.features is not None
        least_alike = self.gallery.dist_mean(others, seen.features[pairs.detection[unknown]]).max(axis=0)
        look = look.copy()
        # No nearer than anybody with a gallery, to the last bit: sums of many products differ in it.
        nearest = np.zeros(len(seen))
        look[unknown] = 0.0
        np.maximum.at(nearest, pairs.detection, look)
        look[unknown] = np.maximum(least_alike, nearest[pairs.detection[unknown]])
        return look, weight

    def _unvetoed(
        self, bank: TrackBank, seen: Detections, pairs: Pairs, chosen: IntArray, look: FloatArray
    ) -> IntArray:
        """Use A: chosen pairs (k,) that appearance contradicts are cancelled, or exchanged where two people crossed.

        look (P,): distance of all pairs to the gallery of the track.
        """
        assert seen.features is not None
        link = self.config.association
        slots, detections = bank.slot[pairs.track[chosen]], pairs.detection[chosen]
        vetoed = self.gallery.counts(slots) >= link.min_gallery
        trusted = _rows(vetoed)
        vetoed[trusted] = self.gallery.beyond_quantile(
            slots[trusted], seen.features[detections[trusted]], look[chosen[trusted]],
            link.veto_quantile, self.thresholds.diff,
        )  # fmt: skip
        if not np.count_nonzero(vetoed):
            return chosen
        near, table = _exchangeable(pairs, chosen, vetoed)
        dist = self.gallery.dist_mean(slots[near], seen.features[detections[near]])
        row = np.arange(len(near))
        column, vetoed[near] = costs.swaps(row, row, vetoed[near], dist, table >= 0, link.swap_gain)
        chosen = chosen.copy()
        chosen[near] = table[row, column]
        return chosen[~vetoed]

    def _mahalanobis_sq(self, bank: TrackBank, boxes: FloatArray) -> FloatArray:
        variance = kalman.innovation_variance(bank.mean, bank.cov, self.config.motion)
        return kalman.mahalanobis_sq(bank.mean, variance, bx.xyxy_to_cxcyah(boxes))

    def _reassociate(self, bank: TrackBank, seen: Detections, links: _Links, image: ImageArray | None) -> None:
        """Use B: strong detections that no track or only a tentative one claims go to the lost track they look like."""
        link = self.config.association
        if not link.reassociate or seen.features is None:
            return
        lost = lifecycle.lost(bank, links.detection >= 0, self._now_s or 0.0, self.config.lifecycle)
        lost_rows = _rows(lost & (self.gallery.counts(bank.slot) >= link.min_gallery))
        if len(lost_rows) == 0:
            return
        owner = links.owners(len(seen))
        found = _rows(self._strong(seen) & ((owner < 0) | ~np.append(bank.confirmed, True)[owner]))
        if len(found) == 0:
            return
        gated = self._plausible_return(bank.keep(lost_rows), seen.boxes[found])
        if not np.count_nonzero(gated):
            return
        dist = self.gallery.dist_min(bank.slot[lost_rows], seen.features[found])  # (lost, found)
        alike = (gated & (dist < self.thresholds.same)).any(axis=0)
        if not np.count_nonzero(alike):
            return
        found, gated, dist = found[alike], gated[:, alike], dist[:, alike]

        everyone = np.full((len(bank), len(found)), np.inf)
        # A tentative track may be the very person: it is nobody's rival.
        known = bank.confirmed.nonzero()[0]
        everyone[known] = self.gallery.dist_min(bank.slot[known], seen.features[found])
        everyone[lost_rows] = dist
        rivals = costs.least_of_others(everyone)[lost_rows]
        alone = (gated & (dist < self.thresholds.same) & np.isinf(rivals)).any(axis=0)
        if image is not None and alone.any():
            surroundings = self._background_dist(image, bank.slot[lost_rows], seen.boxes[found[alone]])
            rivals[:, alone] = np.minimum(rivals[:, alone], surroundings)
        i, j = assign(costs.relink_cost(dist, rivals, gated, self.thresholds.same, link.second_best_ratio))
        links.relink(lost_rows[i], found[j], owner)

    def _plausible_return(self, lost: TrackBank, boxes: FloatArray) -> BoolArray:
        """(T, N) pairs that motion and size permit: the gate grows while the track coasts."""
        link = self.config.association
        ratio = (boxes[:, 3] - boxes[:, 1])[None] / lost.mean[:, 3:4]
        sized = (ratio >= link.min_height_ratio) & (ratio <= link.max_height_ratio)
        return sized & (self._mahalanobis_sq(lost, boxes) <= link.relink_chi2)

    def _background_dist(self, image: ImageArray, slots: IntArray, boxes: FloatArray) -> FloatArray:
        """Mean distance of the surroundings of each box to each slot: (n, N); +inf where all lie outside the image."""
        controls, inside = prior.background(boxes, image.shape[1], image.shape[0])
        embedded = self._embed(image, controls.reshape(-1, 4))
        dist = self.gallery.dist_mean(slots, embedded).reshape(len(slots), *inside.shape)
        return verify.mean_control(np.where(inside, dist, np.nan))

    # -------------------------------------------------------------------------------------------------- proposals

    def _propose(
        self, bank: TrackBank, seen: Detections, links: _Links, frame: Frame, image: ImageArray | None, looked: bool
    ) -> None:
        """Use C: look again where the prior of an unmatched confirmed track says; a verifier decides what it saw.

        In a frame at which the detector does not look, it looks at no window either.
        """
        config = self.config.proposals
        by_window = looked and self.detector is not None and frame.image is not None and config.verifier != "appearance"
        by_looks = image is not None and config.verifier != "detector"
        # "both" without a detector is left with appearance; without appearance nobody agrees with the detector.
        if not config.enabled or not (by_looks or (by_window and config.verifier == "detector")):
            return
        age_s = (self._looked_s or 0.0) - bank.seen_s
        asked = bank.confirmed & (links.detection < 0) & (age_s <= config.max_s + lifecycle.TIME_SLACK_S)
        if by_looks:
            asked &= self.gallery.counts(bank.slot) >= self.config.association.min_gallery
        tracks = _rows(asked)
        if len(tracks) == 0:
            return
        kept = self._strong(seen)
        kept[links.detection[links.detection >= 0]] = True
        taken, weak = seen.boxes[kept], seen.boxes[~kept]
        if by_window:
            places, belief = self._seen_again(bank, tracks, age_s, taken, frame)
            if image is not None and by_looks:
                same = self._recognised(bank, places, image)
                places, belief = places.take(same), belief[same]
        else:
            assert image is not None
            places, belief = self._found_by_looks(bank, tracks, age_s, taken, weak, image)
        best = np.argsort(-belief, kind="stable")  # of two proposals in one place the surer stays
        best = best[self._apart(bank.keep(places.track[best]), places.boxes[best], taken)]
        rows = places.track[best]
        links.proposed[rows] = True
        links.measured[rows] = places.boxes[best]
        links.belief[rows] = np.clip(belief[best], 0.0, 1.0)

    def _found_by_looks(
        self, bank: TrackBank, tracks: IntArray, age_s: FloatArray, taken: FloatArray, weak: FloatArray,
        image: ImageArray,
    ) -> tuple[prior.Candidates, FloatArray]:  # fmt: skip
        """For each track the place around its prediction that looks most like it, if it looks enough like it."""
        config, (height, width) = self.config.proposals, image.shape[:2]
        variance = kalman.innovation_variance(bank.mean[tracks], bank.cov[tracks], self.config.motion)
        places = prior.candidates(tracks, bank.mean[tracks], variance, weak, config)
        places = places.take(prior.plausible(places, taken, width, height, config))
        tracks, count = np.unique(places.track, return_counts=True)
        within = verify.within_budget(count + prior.N_CONTROLS, age_s[tracks], config.max_crops_per_frame)
        tracks = tracks[within]
        places = places.take(np.isin(places.track, tracks))
        if self.tracing:
            self._notes.tried = places.boxes
        if len(places) == 0:
            return places, np.zeros(0)

        dist = self._looked_over(bank, places, image)
        best = verify.best_candidates(places.track, places.log_prior, dist, self.thresholds.sigma)  # one a track
        tau = config.accept_scale * self.thresholds.same
        best = best[dist[best] < tau]
        if len(best) == 0:
            return places.take(best), np.zeros(0)
        rows = places.track[best]
        controls, inside = prior.background(bx.cxcyah_to_xyxy(bank.mean[rows, :4]), width, height)
        around = self._embed(image, controls.reshape(-1, 4))
        control_dist = self.gallery.dist_pairs(np.repeat(bank.slot[rows], prior.N_CONTROLS), around)
        control = verify.mean_control(np.where(inside, control_dist.reshape(inside.shape), np.nan))
        best = best[verify.accepted(dist[best], control, tau, config)]
        return places.take(best), 1.0 - dist[best] / self.thresholds.diff

    def _looked_over(self, bank: TrackBank, places: prior.Candidates, image: ImageArray) -> FloatArray:
        """(C,) distance of candidates, C > 0, to their tracks; +inf where the first one of the track was not like it.

        The others of such a track are not embedded.
        """
        tracks, first = np.unique(places.track, return_index=True)
        dist = np.full(len(places), np.inf)
        dist[first] = self.gallery.dist_pairs(bank.slot[tracks], self._embed(image, places.boxes[first]))
        limit = self.config.proposals.first_look * self.thresholds.same
        rest = np.isin(places.track, tracks[dist[first] < limit])
        rest[first] = False
        if rest.any():
            slots = bank.slot[places.track[rest]]
            dist[rest] = self.gallery.dist_pairs(slots, self._embed(image, places.boxes[rest]))
        return dist

    def _seen_again(
        self, bank: TrackBank, tracks: IntArray, age_s: FloatArray, taken: FloatArray, frame: Frame
    ) -> tuple[prior.Candidates, FloatArray]:
        """For each track what the detector finds best in a window around its prediction, with its score."""
        assert self.detector is not None
        config = self.config.proposals
        predicted = bx.cxcyah_to_xyxy(bank.mean[tracks, :4])
        here = prior.Candidates(tracks, predicted, np.zeros(len(tracks)))
        large = bx.valid(predicted) & (predicted[:, 3] - predicted[:, 1] >= window.MIN_BOX_PX)
        tracks = tracks[large & prior.plausible(here, taken, frame.width, frame.height, config)]
        tracks = tracks[verify.within_budget(np.ones_like(tracks), age_s[tracks], window.MAX_WINDOWS)]
        if len(tracks) == 0:
            return prior.Candidates.none(), np.zeros(0)
        variance = kalman.innovation_variance(bank.mean[tracks], bank.cov[tracks], self.config.motion)
        places, scores = window.look(self.detector, frame, tracks, bank.mean[tracks], variance, config)
        free = prior.plausible(places, taken, frame.width, frame.height, config)
        places, scores = places.take(free), scores[free]
        if self.tracing:
            self._notes.tried = places.boxes
        best = window.best(places, scores)
        return places.take(best), scores[best]

    def _recognised(self, bank: TrackBank, places: prior.Candidates, image: ImageArray) -> BoolArray:
        """(C,) places that look like their tracks. That somebody stands there is known; it remains to tell who."""
        if len(places) == 0:
            return np.zeros(0, bool)
        dist = self.gallery.dist_pairs(bank.slot[places.track], self._embed(image, places.boxes))
        return np.asarray(dist < self.thresholds.same)

    def _apart(self, bank: TrackBank, boxes: FloatArray, taken: FloatArray) -> BoolArray:
        """(n,) proposals whose updated box covers no detection and no surer proposal: a detection always wins."""
        factor = np.full(len(boxes), self.config.motion.proposal_noise)
        mean, _ = kalman.correct(bank.mean, bank.cov, bx.xyxy_to_cxcyah(boxes), self.config.motion, factor)
        shown = bx.cxcyah_to_xyxy(mean[:, :4])
        limit = self.config.proposals.max_overlap
        keep = np.asarray((bx.iou(shown, taken) <= limit).all(axis=1))
        among = bx.iou(shown, shown) > limit
        for row in range(1, len(boxes)):
            keep[row] = keep[row] and not (among[row, :row] & keep[:row]).any()
        return keep

    # ------------------------------------------------------------------------------------------------------- trace

    def _look_cost(self, slots: IntArray, dist: FloatArray | None) -> FloatArray:
        """(P,) cost of looks for distances (P,) to `slots`, before weighting; NaN where looks decided nothing."""
        if dist is None or self.config.association.appearance_weight == 0:
            return np.full(len(slots), np.nan)
        return np.where(self.gallery.counts(slots) > 0, dist / 2.0, np.nan)

    def _traced(self, bank: TrackBank, seen: Detections, links: _Links, expected: _Expected) -> StepTrace:
        """What this step looked at and decided. The gate is that of association, or, without one, that of use B."""
        link, notes = self.config.association, self._notes
        limit = link.relink_chi2 if link.gate_chi2 is None else link.gate_chi2
        variance = kalman.innovation_variance(bank.mean, bank.cov, self.config.motion)
        none = np.zeros(0, np.int64)
        return StepTrace(
            id=bank.id,
            predicted=expected.boxes,
            gate_px=np.sqrt(limit * variance[:, :2]),
            pair_id=bank.id[np.concatenate([none, *notes.track])],
            pair_boxes=seen.boxes[np.concatenate([none, *notes.detection])],
            pair_cost=np.concatenate([np.zeros((0, 3)), *notes.cost]),
            tried=notes.tried,
            accepted=links.measured[links.proposed],
        )

    # --------------------------------------------------------------------------------------------------- occlusion

    def _hold(self, bank: TrackBank, seen: Detections, links: _Links, frame: Frame, expected: _Expected) -> None:
        """Confirmed tracks that are hidden, and by what: their predictions stand for them while they can be trusted."""
        config, now_s = self.config.occlusion, frame.time_s
        if not config.enabled:
            return
        found = bank.confirmed & (links.detection >= 0)
        rows = found.nonzero()[0]
        missed = (bank.confirmed & ~found & ~links.proposed).nonzero()[0]
        predicted = expected.boxes[missed]
        covered, twin = self._overlaid(bank, seen, links, missed, rows, expected)
        hidden = covered
        if config.scenery:
            boxes = seen.boxes[links.detection[rows]]
            self.scenery.fit(frame.width, frame.height)
            hidden = covered | self.scenery.hides(predicted)
            self.scenery.learn(bank, rows, boxes, now_s, self._gap_s)
            self.scenery.miss(bank.key[missed], covered, now_s, self._gap_s)
        recent = now_s - bank.seen_s[missed] <= config.max_s + lifecycle.TIME_SLACK_S
        links.held[missed] = recent & hidden & ~twin & occlusion.trusted(bank, config)[missed]

    def _overlaid(
        self, bank: TrackBank, seen: Detections, links: _Links, missed: IntArray, found: IntArray, expected: _Expected
    ) -> tuple[BoolArray, BoolArray]:
        """Who of the missed tracks (k,) is behind one of those found (rows of confirmed tracks) or proposed, and who
        is nearly in the place of one: the same person, now under another identity. Both (k,)."""
        config = self.config.occlusion
        others = np.zeros(len(seen), bool)
        others[links.detection[found]] = True
        asked = np.zeros(len(bank), bool)
        asked[missed] = True
        pairs = expected.pairs.among(asked, others, 0.0)
        share = occlusion.hiding(expected.boxes[pairs.track], seen.boxes[pairs.detection])
        covered, twin = np.full(len(bank), config.min_cover == 0), np.zeros(len(bank), bool)
        covered[pairs.track[share >= config.min_cover]] = True
        twin[pairs.track[pairs.iou > config.max_overlap]] = True
        if np.count_nonzero(links.proposed):
            predicted, proposed = expected.boxes[missed], links.measured[links.proposed]
            covered[missed] |= occlusion.covered(predicted, proposed) >= config.min_cover
            twin[missed] |= bx.iou(predicted, proposed).max(axis=1) > config.max_overlap
        return covered[missed], twin[missed]

    def _carry(self, bank: TrackBank, links: _Links, frame: Frame, expected: _Expected) -> None:
        """Who was put out since the detector looked goes on as predicted, while in the picture, unless proposed.

        That C does not propose somebody says little: its limits are strict, for they were made for people missed.
        """
        predicted = expected.boxes
        if frame.width and frame.height:
            predicted = bx.clip(predicted, frame.width, frame.height)
        going = bank.confirmed & (bank.shown_index >= self._looked_index)
        links.held[:] = going & ~links.proposed & bx.valid(predicted)

    def _complete(self, bank: TrackBank, links: _Links, frame: Frame, expected: _Expected) -> None:
        """Boxes of people who were detected in part get their usual width back."""
        config = self.config.occlusion
        if not config.enabled:
            return
        found = (links.detection >= 0) & bank.confirmed
        rows = (found & ~links.relinked).nonzero()[0]
        boxes, in_front = links.measured[rows], links.measured[found]
        links.measured[rows] = occlusion.completed(boxes, expected.boxes[rows], in_front, frame.width, config)

    # ------------------------------------------------------------------------------------------------------ update

    def _updated(
        self, bank: TrackBank, seen: Detections, rows: IntArray, covered: BoolArray, links: _Links, frame: Frame,
        image: ImageArray | None, looked: bool, expected: _Expected,
    ) -> Tracks:  # fmt: skip
        life, now_s = self.config.lifecycle, frame.time_s
        matched = links.detection >= 0
        owner = links.owners(len(seen))
        if np.count_nonzero(links.absorbed):
            # A tentative track turned out to be a lost one: its frames belong to that identity.
            heir = owner[links.inherited[links.absorbed]]
            self._backfill(bank.key[links.absorbed], bank.id[heir], bank.shown_index[heir])
        bank = self._corrected(bank, seen, links, frame, expected)

        detection, source = links.detection, np.full(len(bank), Source.DETECTED, np.uint8)
        source[links.held] = Source.OCCLUDED if looked else Source.PREDICTED
        source[links.proposed] = Source.PROPOSED
        if looked:
            enough = self.gallery.counts(bank.slot) >= self.config.association.min_gallery
            remembered = enough & self.config.association.reassociate
            stays = lifecycle.alive(bank, matched, remembered, now_s, life) & ~links.absorbed
            if np.count_nonzero(stays) < len(bank):
                self.gallery.give_back(bank.slot[~stays])
                bank, detection, source = bank.keep(stays), detection[stays], source[stays]
        unclaimed = _rows((seen.scores >= self._birth_score) & (owner < 0))
        if len(unclaimed):
            bank = bank.append(self._born(seen.take(unclaimed), now_s))
            detection = np.concatenate([detection, unclaimed])
            source = np.concatenate([source, np.full(len(unclaimed), Source.DETECTED, np.uint8)])
        self._write_gallery(bank, seen, detection, covered, frame)

        fresh = lifecycle.newly_confirmed(bank, life)
        if np.count_nonzero(fresh):
            bank = lifecycle.with_identities(bank, fresh, self.n_ids + 1)
            self.n_ids += int(np.count_nonzero(fresh))
            self._backfill(bank.key[fresh], bank.id[fresh], bank.shown_index[fresh])
        if not looked:
            source[~bank.confirmed] = Source.PREDICTED  # the detector will tell whether they are somebody
        shown = (detection >= 0) | (source != Source.DETECTED)
        return self._shown(bank, seen, rows, detection, source, shown, frame, image)

    def _shown(
        self, bank: TrackBank, seen: Detections, rows: IntArray, detection: IntArray, source: NDArray[np.uint8],
        shown: BoolArray, frame: Frame, image: ImageArray | None,
    ) -> Tracks:  # fmt: skip
        """Confirmed tracks that are shown, by identity; tentative ones wait for their confirmation."""
        det_index = np.append(rows, -1)[detection]
        features = self._kept_features(bank, seen, detection, source == Source.PROPOSED, image)

        def tracks_of(chosen: IntArray) -> Tracks:
            return Tracks(
                bx.cxcyah_to_xyxy(bank.mean[chosen, :4]), bank.id[chosen], bank.score[chosen], bank.class_id[chosen],
                det_index[chosen], source[chosen], None if features is None else features[chosen],
            )  # fmt: skip

        waiting = _rows(shown & ~bank.confirmed)
        if len(waiting):
            self._tentative.append((frame.index, bank.key[waiting], tracks_of(waiting)))
        undecided = set(bank.key[waiting].tolist())
        while self._tentative and undecided.isdisjoint(self._tentative[0][1].tolist()):
            self._tentative.popleft()
        visible = _rows(shown & bank.confirmed)
        shown_index = bank.shown_index.copy()
        shown_index[visible] = frame.index
        self.bank = bank.with_(shown_index=shown_index)
        return tracks_of(visible[bank.id[visible].argsort()])

    def _kept_features(
        self, bank: TrackBank, seen: Detections, detection: IntArray, proposed: BoolArray, image: ImageArray | None
    ) -> FeatureArray | None:
        """(T, D) embeddings of the tracks, for `Tracks.features`; None unless asked for.

        Weak detections and proposals, which tracking knows no embeddings of, are looked at for this alone.
        """
        if not self._keep_features:
            return None
        if seen.features is not None:
            self._dim = seen.features.shape[1]
        if self._dim is None:
            return None
        features = np.full((len(bank), self._dim), np.nan, np.float32)
        found = detection >= 0
        if seen.features is not None:
            features[found] = seen.features[detection[found]]
            features[found] = np.where(self._copied[detection[found], None], np.nan, features[found])
        unknown = _rows((found | proposed) & ~(np.nan_to_num(features).any(axis=1)))
        if image is not None and len(unknown):
            features[unknown] = self._embed(image, bx.cxcyah_to_xyxy(bank.mean[unknown, :4]))
        features[~features.any(axis=1)] = np.nan  # zeros: the network saw nothing
        return features

    def _corrected(
        self, bank: TrackBank, seen: Detections, links: _Links, frame: Frame, expected: _Expected
    ) -> TrackBank:
        """The bank after the measurements: matched tracks by their detection, proposed ones by the place found."""
        motion, now_s = self.config.motion, frame.time_s
        matched = links.detection >= 0
        links.measured[matched] = seen.boxes[links.detection[matched]]
        self._complete(bank, links, frame, expected)
        rows = _rows((matched | links.proposed) & ~links.absorbed)
        if len(rows) == 0:
            return bank
        z = bx.xyxy_to_cxcyah(links.measured[rows])
        factor = np.full(len(rows), motion.proposal_noise)
        by_detection = matched[rows]
        factor[by_detection] = kalman.score_noise(seen.scores[links.detection[rows[by_detection]]], motion)
        mean, cov = bank.mean.copy(), bank.cov.copy()
        mean[rows], cov[rows] = kalman.correct(bank.mean[rows], bank.cov[rows], z, motion, factor)

        again = _rows(links.relinked[rows])
        if len(again):
            # What was predicted through the gap is worth less than the detection: start anew, with the mean velocity.
            mean[rows[again]], cov[rows[again]] = kalman.initiate(z[again], motion)
            gap_s = np.maximum(now_s - bank.seen_s[rows[again]], 1.0 / motion.reference_hz)
            mean[rows[again], 4:6] = (z[again, :2] - bank.seen_xy[rows[again]]) / gap_s[:, None]

        detected = _rows(matched)
        hits, seen_s, seen_xy = bank.hits.copy(), bank.seen_s.copy(), bank.seen_xy.copy()
        score, class_id, height = bank.score.copy(), bank.class_id.copy(), bank.height.copy()
        height[detected] = occlusion.next_height(height[detected], links.measured[detected])
        hits[detected] += 1
        seen_s[detected] = now_s
        seen_xy[rows[matched[rows]]] = z[matched[rows], :2]
        score[detected] = seen.scores[links.detection[detected]]
        class_id[detected] = seen.classes[links.detection[detected]]
        score[links.proposed] = links.belief[links.proposed]
        return bank.with_(
            mean=mean, cov=cov, hits=hits, seen_s=seen_s, seen_xy=seen_xy, score=score, class_id=class_id, height=height
        )

    def _born(self, seen: Detections, now_s: float) -> TrackBank:
        """New tentative tracks of strong detections that nobody claims."""
        n = len(seen)
        z = bx.xyxy_to_cxcyah(seen.boxes)
        mean, cov = kalman.initiate(z, self.config.motion)
        self._n_keys += n
        return TrackBank(
            key=np.arange(self._n_keys - n, self._n_keys), id=np.zeros(n, np.int64), mean=mean, cov=cov,
            hits=np.ones(n, np.int64), seen_s=np.full(n, now_s), seen_xy=z[:, :2],
            height=occlusion.first_height(seen.boxes), shown_index=np.full(n, -1), score=seen.scores,
            class_id=seen.classes, slot=self.gallery.take_slots(n),
        )  # fmt: skip

    def _write_gallery(
        self, bank: TrackBank, seen: Detections, detection: IntArray, covered: BoolArray, frame: Frame
    ) -> None:
        """Remember how the tracks look: strong detections alone, unoccluded, whole, large enough and like the rest."""
        if seen.features is None:
            return
        look, boxes = self.config.appearance, seen.boxes
        clean = self._strong(seen) & ~covered & (boxes[:, 3] - boxes[:, 1] >= look.min_height_px)
        if frame.width and frame.height:
            clean &= (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0)
            clean &= (boxes[:, 2] <= frame.width) & (boxes[:, 3] <= frame.height)
        rows = _rows((detection >= 0) & np.append(clean, False)[detection])
        rows = rows[seen.features[detection[rows]].any(axis=1)]  # zeros: the network saw nothing in the crop
        slots, features = bank.slot[rows], seen.features[detection[rows]]
        dist = self.gallery.dist_pairs(slots, features)
        known = self.gallery.counts(slots) >= self.config.association.min_gallery
        if self.metric is not None:
            sure = bank.confirmed[rows] & known & (dist < self.thresholds.same)
            # The oldest look, for that of the frame before is nearly the same and says little about the person.
            self.metric.learn(frame_triplets(features[sure], self.gallery.oldest(slots[sure])))
        strange = (dist >= self.thresholds.diff) & known
        self.gallery.write(slots[~strange], features[~strange])
        self.gallery.looked(slots[~strange & ~self._copied[detection[rows]]], frame.time_s)

    def _backfill(self, keys: IntArray, ids: IntArray, after: IntArray) -> None:
        """Earlier frames of tracks that were tentative then: track keys[i] is now known as ids[i].

        Only frames later than after[i] count, in which that identity was not shown already.
        """
        if len(keys) == 0:
            return
        order = np.argsort(keys)
        for index, waiting, tracks in self._tentative:
            at = order[np.searchsorted(keys, waiting, sorter=order).clip(max=len(keys) - 1)]
            rows = _rows((keys[at] == waiting) & (after[at] < index))
            if len(rows):
                self.backfilled.append(FrameTracks(index, replace(tracks[rows], id=ids[at[rows]])))


def _exchangeable(pairs: Pairs, chosen: IntArray, vetoed: BoolArray) -> tuple[IntArray, IntArray]:
    """Chosen pairs that a vetoed one could be exchanged with, and the vetoed ones: (n,) places in `chosen`.

    chosen (k,) rows of `pairs`, vetoed (k,). Also (n, n) the row of `pairs` that has the track of one of them and the
    detection of another, -1 where motion permits no such pair.
    """
    vetoed_track, reached_track = np.zeros((2, pairs.track.max() + 1), bool)
    vetoed_detection, reached_detection = np.zeros((2, pairs.detection.max() + 1), bool)
    track, detection = pairs.track[chosen], pairs.detection[chosen]
    vetoed_track[track[vetoed]] = True
    vetoed_detection[detection[vetoed]] = True
    reached_detection[pairs.detection[vetoed_track[pairs.track]]] = True
    reached_track[pairs.track[vetoed_detection[pairs.detection]]] = True
    near = _rows(reached_track[track] & reached_detection[detection])

    place_of_track, place_of_detection = np.full(len(reached_track), -1), np.full(len(reached_detection), -1)
    place_of_track[track[near]] = place_of_detection[detection[near]] = np.arange(len(near))
    i, j = place_of_track[pairs.track], place_of_detection[pairs.detection]
    inside = _rows((i >= 0) & (j >= 0))
    table = np.full((len(near), len(near)), -1, np.int64)
    table[i[inside], j[inside]] = inside
    return near, table
