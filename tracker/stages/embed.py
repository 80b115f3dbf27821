"""What people look like: the network that makes embeddings, what is remembered of each track, and the thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracker import boxes as bx
from tracker.appearance import reuse as economy
from tracker.appearance.gallery import Gallery
from tracker.config import TrackerConfig
from tracker.stages.frame_state import Scene, rows_of
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FeatureArray, FloatArray, ImageArray, IntArray, State

# Where neither the settings nor a model's metadata give thresholds (embeddings handed in by the caller):
# the values of the simulation in methods 05 §5.
FALLBACK_TAU_SAME, FALLBACK_TAU_DIFF, FALLBACK_SIGMA = 0.45, 0.65, 0.15


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


class Looks:
    """Appearance of one stream. `attach` says who makes the embeddings."""

    def __init__(self, config: TrackerConfig, keep_features: bool) -> None:
        """keep_features: `kept` gives the embeddings of the people of a frame."""
        self._config = config
        self.gallery = Gallery(config.appearance.gallery_size)
        self.encoder: Encoder | None = None
        self.thresholds = self._resolved(None)
        self.n_crops = 0  # that the encoder was given so far
        self._keep_features = keep_features
        self._dim: int | None = None  # of the features kept

    def attach(self, encoder: Encoder | None, thresholds: Thresholds | None) -> None:
        """Make embeddings with this encoder from now on; settings win over the thresholds it brings."""
        self.encoder = encoder
        self.thresholds = self._resolved(thresholds)

    def _resolved(self, brought: Thresholds | None) -> Thresholds:
        known = brought or Thresholds(FALLBACK_TAU_SAME, FALLBACK_TAU_DIFF, FALLBACK_SIGMA)
        look = self._config.appearance
        return Thresholds(
            known.same if look.tau_same is None else look.tau_same,
            known.diff if look.tau_diff is None else look.tau_diff,
            known.sigma if look.sigma_same is None else look.sigma_same,
        )

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """(N, D) of boxes (N, 4) xyxy, made by the encoder."""
        assert self.encoder is not None
        self.n_crops += len(boxes)
        return self.encoder.embed(image, boxes)

    def known(self, slots: IntArray) -> BoolArray:
        """(n,) slots with enough embeddings to decide by."""
        return self.gallery.counts(slots) >= self._config.association.min_gallery

    # ------------------------------------------------------------------------------------- detections of this frame

    def join(self, scene: Scene) -> None:
        """Embeddings for the strong detections: made where looks may matter, and otherwise those of last time."""
        link, image, seen = self._config.association, scene.image, scene.seen
        wanted = link.appearance_weight > 0 or link.veto or link.reassociate or self._config.proposals.enabled
        if image is None or not (wanted or self._keep_features):
            return
        owner = self._plain(scene)
        scene.copied = (owner >= 0) & scene.strong
        looked_at = rows_of(scene.strong & ~scene.copied)
        embedded = self.embed(image, seen.boxes[looked_at]) if len(looked_at) else None
        copied = self.gallery.latest(scene.bank.slot[owner[scene.copied]]) if scene.copied.any() else None
        known = copied if embedded is None else embedded
        if known is None:
            return
        features = np.zeros((len(seen), known.shape[1]), np.float32)  # weak ones are never compared or stored
        if embedded is not None:
            features[looked_at] = embedded
        if copied is not None:
            features[scene.copied] = copied
        scene.seen = seen.with_features(features)

    def _plain(self, scene: Scene) -> IntArray:
        """(N,) row of the track that motion alone gives each detection to, without a doubt; -1 where looks may matter."""
        look, bank, now_s, boxes = self._config.appearance, scene.bank, scene.now_s, scene.seen.boxes
        if look.refresh_s == 0:
            return np.full(len(boxes), -1, np.int64)
        due = now_s - self.gallery.looked_s(bank.slot) >= look.refresh_s - lifecycle.TIME_SLACK_S
        # Only who was seen last time, too: a track that may be hidden must not take the detection of who hides it.
        settled = bank.confirmed & scene.expected.visible & self.known(bank.slot) & ~due
        active = rows_of(lifecycle.active(bank, now_s, self._config.lifecycle))
        owner = economy.plain(scene.expected.boxes[active], boxes, settled[active], look)
        return np.where(owner >= 0, np.append(active, -1)[owner], -1)

    # ------------------------------------------------------------------------------------------------ after matching

    def remember(self, scene: Scene, bank: TrackBank, detection: IntArray) -> None:
        """Write into the gallery: strong detections alone, unoccluded, whole, large enough and like the rest.

        detection (T,): row of the detection of each track of the updated bank, -1 none.
        """
        features = scene.seen.features
        if features is None:
            return
        rows = rows_of((detection >= 0) & np.append(self._clean(scene), False)[detection])
        rows = rows[features[detection[rows]].any(axis=1)]  # zeros: the network saw nothing in the crop
        slots, looks = bank.slot[rows], features[detection[rows]]
        dist = self.gallery.dist_pairs(slots, looks)
        known = self.known(slots)
        strange = (dist >= self.thresholds.diff) & known
        self.gallery.write(slots[~strange], looks[~strange])
        self.gallery.looked(slots[~strange & ~scene.copied[detection[rows]]], scene.now_s)

    def _clean(self, scene: Scene) -> BoolArray:
        """(N,) detections that show what somebody looks like."""
        frame, boxes = scene.frame, scene.seen.boxes
        tall = boxes[:, 3] - boxes[:, 1] >= self._config.appearance.min_height_px
        clean = scene.strong & ~scene.covered & tall
        if frame.width and frame.height:
            clean &= (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0)
            clean &= (boxes[:, 2] <= frame.width) & (boxes[:, 3] <= frame.height)
        return clean

    def kept(self, scene: Scene, bank: TrackBank, detection: IntArray, proposed: BoolArray) -> FeatureArray | None:
        """(T, D) embeddings of the tracks of the updated bank, for `Tracks.features`; None unless asked for.

        detection (T,) as in `remember`, proposed (T,). Weak detections and proposals, which tracking knows no
        embeddings of, are looked at for this alone.
        """
        if not self._keep_features:
            return None
        made = scene.seen.features
        if made is not None:
            self._dim = made.shape[1]
        if self._dim is None:
            return None
        features = np.full((len(bank), self._dim), np.nan, np.float32)
        found = detection >= 0
        if made is not None:
            features[found] = np.where(scene.copied[detection[found], None], np.nan, made[detection[found]])
        unknown = rows_of((found | proposed) & ~(np.nan_to_num(features).any(axis=1)))
        if scene.image is not None and len(unknown):
            features[unknown] = self.embed(scene.image, bx.cxcyah_to_xyxy(bank.mean[unknown, :4]))
        features[~features.any(axis=1)] = np.nan  # zeros: the network saw nothing
        return features

    # ---------------------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """All that later looks depend on besides settings and networks."""
        return {
            "gallery": self.gallery.state(),
            "n_crops": self.n_crops,
            "dim": self._dim,
        }

    def restore(self, state: State) -> None:
        self.gallery.restore(state["gallery"])
        self.n_crops, self._dim = state["n_crops"], state["dim"]
