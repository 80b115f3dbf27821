"""Appearance of one stream: the re-ID network, the gallery of each track, and the distance thresholds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as bx
from tracker.appearance.gallery import Gallery
from tracker.appearance.reuse import reusable
from tracker.association.pairs import Overlaps
from tracker.association.scene import Scene
from tracker.config import AppearanceConfig, TrackerConfig
from tracker.stages.predict import PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks.bank import TrackBank
from tracker.tracks.lifecycle import TIME_SLACK_S
from tracker.types import BoolArray, Detections, FeatureArray, FloatArray, Frame, ImageArray, IntArray, Source, State

_MOST_OBSERVED = 16  # embeddings of a frame that the scene learns from


class Encoder(Protocol):
    """Turns boxes of an image into unit-length embeddings; `appearance/encoder.py` runs the re-ID network."""

    name: str  # for the summary

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """image (H, W, 3) uint8 BGR, boxes (N, 4) xyxy -> (N, D) float32, unit rows."""
        ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosine distances in [0, 2] that decide about identity."""

    same: float  # below: the same person (1 % of the pairs of different people are nearer)
    diff: float  # above: different people (1 % of the pairs of one person are farther)
    sigma: float  # root mean square distance of the same person


# For embeddings of the caller, where neither settings nor the metadata of a model have thresholds. Cosine distances;
# from the simulation in docs/method.md, 5.
FALLBACK = Thresholds(same=0.45, diff=0.65, sigma=0.15)


class Appearance:
    """Embeds boxes, and keeps the gallery of every track."""

    def __init__(
        self, config: TrackerConfig, encoder: Encoder | None, thresholds: Thresholds | None, keep_features: bool
    ) -> None:
        """keep_features: `output_features` gives the embeddings of the output tracks."""
        link = config.association
        used = link.veto or link.reassociate or config.proposals.verify != "off"
        self.gallery = Gallery(config.appearance.gallery_size)
        self.n_crops = 0  # embedded so far
        self._config = config.appearance
        self._wanted = used or keep_features
        self._keep_features = keep_features
        self._dim: int | None = None  # of the output features
        self.attach(encoder, thresholds)

    def attach(self, encoder: Encoder | None, thresholds: Thresholds | None) -> None:
        """Use this network from now on, with its thresholds where the settings leave them open."""
        self.encoder = encoder
        self.thresholds = found = _resolved(self._config, thresholds or FALLBACK)
        self.scene = Scene(found.same, found.diff, found.sigma)

    def detach(self) -> None:
        """Embed nothing from now on; thresholds and galleries stay."""
        self.encoder = None

    def image_for(self, frame: Frame, detections: Detections | None) -> ImageArray | None:
        """The image that the network may embed boxes of; None where embeddings came along, or there is no network."""
        given = detections is not None and detections.features is not None
        return None if given or self.encoder is None else frame.image

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """image (H, W, 3) uint8 BGR, boxes (N, 4) xyxy -> (N, D) unit rows."""
        assert self.encoder is not None
        self.n_crops += len(boxes)
        return self.encoder.embed(image, boxes)

    @property
    def active(self) -> bool:
        """Whether tracks have embeddings, or may get them from a network."""
        return self.encoder is not None or self.gallery.dim > 0

    def known(self, slots: IntArray) -> BoolArray:
        """(n,) slots with an embedding."""
        return self.gallery.counts(slots) > 0

    def embed_detections(
        self, image: ImageArray | None, dets: FrameDetections, tracks: PredictedTracks
    ) -> FrameDetections:
        """The detections with embeddings of the high-score ones: computed, or reused where motion is unambiguous.

        Other classes than those that the network can tell apart have zeros.
        """
        if image is None or not self._wanted:
            return dets
        track = self._reusable(dets, tracks)
        wanted = dets.high & dets.embeddable
        reused = (track >= 0) & wanted
        fresh = (wanted & ~reused).nonzero()[0]
        computed = self.embed(image, dets.boxes[fresh]) if len(fresh) else None
        latest = self.gallery.latest(tracks.bank.slot[track[reused]]) if reused.any() else None
        some = latest if computed is None else computed
        if some is None:
            return dets
        features = np.zeros((len(dets), some.shape[1]), np.float32)  # of the others: never compared or stored
        if computed is not None:
            features[fresh] = computed
        if latest is not None:
            features[reused] = latest
        return replace(dets, features=features, embedded=np.asarray(features.any(axis=1)), reused=reused)

    def _reusable(self, dets: FrameDetections, tracks: PredictedTracks) -> IntArray:
        """(N,) row of the track whose latest embedding can be reused for the detection; -1: embed it.

        Only visible tracks count: an occluded one must not take the detection of its occluder.
        """
        bank = tracks.bank
        if self._config.refresh_s == 0:
            return np.full(len(dets), -1, np.int64)
        due = tracks.time_s - self.gallery.embedded_s(bank.slot) >= self._config.refresh_s - TIME_SLACK_S
        settled = bank.confirmed & tracks.visible & self.known(bank.slot) & ~due
        active = tracks.active.nonzero()[0]
        row = reusable(tracks.boxes[active], dets.boxes, settled[active])
        return np.where(row >= 0, np.append(active, -1)[row], -1)

    def store(
        self, frame: Frame, dets: FrameDetections, overlaps: Overlaps, bank: TrackBank, detection: IntArray
    ) -> None:
        """Add this frame's embeddings to the galleries; detection (T,) row of each track of `bank`, -1: none.

        Only of high-score detections inside the image that are not too far from the gallery (docs/method.md, 5).
        """
        if self._wanted:  # the first image may come at any frame
            self._observe_boxes(dets, detection, bank)
        if dets.features is None:
            return
        rows = (detection >= 0).nonzero()[0]
        rows = rows[(self._clean(frame, dets) & dets.embedded)[detection[rows]]]
        slots, features = bank.slot[rows], dets.features.take(detection[rows], axis=0)
        if self._config.scene:
            self._observe_distances(frame.index, dets, overlaps, bank, detection, rows)
        outlier = self.known(slots) & (self.gallery.dist_pairs(slots, features) >= self.thresholds.diff)
        kept = (~outlier).nonzero()[0]
        rows, slots = rows[kept], slots[kept]
        self.gallery.write(slots, features.take(kept, axis=0))
        self.gallery.mark_embedded(slots[~dets.reused[detection[rows]]], frame.time_s)

    def _observe_boxes(self, dets: FrameDetections, detection: IntArray, bank: TrackBank) -> None:
        rows = (dets.high & dets.embeddable).nonzero()[0]
        new = detection[(bank.hits == 1) & (detection >= 0)]
        n_new = int(np.count_nonzero(dets.embeddable[new]))
        self.scene.observe_boxes(dets.places.take(rows, axis=0), dets.boxes[rows, 2:], n_new)

    def _observe_distances(
        self,
        index: int,
        dets: FrameDetections,
        overlaps: Overlaps,
        bank: TrackBank,
        detection: IntArray,
        rows: IntArray,
    ) -> None:
        """The scene learns from the embeddings of this frame that are about to be stored, for the tracks `rows` (n,).

        A detection that overlaps no other one certainly is the person of its track, and none of those that are detected
        elsewhere. Only computed embeddings count: a reused one is that of the frame before. In crowds some of them do,
        others in the next frame; index: number of the frame.
        """
        assert dets.features is not None
        others = ((detection >= 0) & bank.confirmed & self.known(bank.slot)).nonzero()[0]
        fresh = rows[bank.confirmed[rows] & ~dets.reused[detection[rows]]]
        step = -(-len(fresh) // _MOST_OBSERVED) or 1
        fresh = fresh[index % step :: step]
        if len(fresh) == 0 or len(others) == 0:
            return
        dist = self.gallery.dist_mean(bank.slot[others], dets.features[detection[fresh]])  # (others, fresh)
        i, j, _ = overlaps.among_detections
        overlapping = np.zeros((len(dets), len(dets)), bool)
        overlapping[i, j] = overlapping[j, i] = True
        near = overlapping[detection[others, None], detection[fresh]]
        own = others[:, None] == fresh
        alone = ~near.any(axis=0)
        self.scene.observe_distances(dist[own & alone], dist[~(own | near)])

    def _clean(self, frame: Frame, dets: FrameDetections) -> BoolArray:
        """(N,) detections whose embedding may enter a gallery."""
        if not (frame.width and frame.height):
            return dets.high
        left, top, right, bottom = dets.boxes.T
        inside = (left >= 0) & (top >= 0) & (right <= frame.width) & (bottom <= frame.height)
        return np.asarray(dets.high & inside)

    def output_features(
        self,
        image: ImageArray | None,
        dets: FrameDetections,
        bank: TrackBank,
        detection: IntArray,
        source: NDArray[np.uint8],
    ) -> FeatureArray | None:
        """(T, D) embeddings of the tracks of `bank` for `Tracks.features`, NaN: none; None unless they are kept.

        detection (T,) as in `store`; source (T,) `Source`. Low-score detections, proposals and reused
        ones are embedded here.
        """
        if not self._keep_features:
            return None
        if dets.features is not None:
            self._dim = dets.features.shape[1]
        if self._dim is None:
            return None
        features = np.full((len(bank), self._dim), np.nan, np.float32)
        found = detection >= 0
        if dets.features is not None:
            known = dets.features[detection[found]]
            features[found] = np.where(dets.reused[detection[found], None], np.nan, known)
        missing = ((found | (source == Source.PROPOSED)) & ~np.nan_to_num(features).any(axis=1)).nonzero()[0]
        if image is not None and len(missing):
            features[missing] = self.embed(image, bx.cxcyah_to_xyxy(bank.mean[missing, :4]))
        features[~features.any(axis=1)] = np.nan  # zeros: the crop was empty
        return features

    def state(self) -> State:
        """All that later embeddings and distances depend on, besides settings and the network."""
        return {"gallery": self.gallery.state(), "scene": self.scene.state(), "n_crops": self.n_crops, "dim": self._dim}

    def restore(self, state: State) -> None:
        self.gallery.restore(state["gallery"])
        self.scene.restore(state["scene"])
        self.n_crops, self._dim = state["n_crops"], state["dim"]


def _resolved(config: AppearanceConfig, default: Thresholds) -> Thresholds:
    """The thresholds of the settings, and the given ones where they leave them open."""
    return Thresholds(
        same=default.same if config.tau_same is None else config.tau_same,
        diff=default.diff if config.tau_diff is None else config.tau_diff,
        sigma=default.sigma if config.sigma_same is None else config.sigma_same,
    )
