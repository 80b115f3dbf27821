"""Track update: Kalman correction, deletion, creation, gallery, confirmation, output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as bx
from tracker.association.pairs import Overlaps
from tracker.config import LifecycleConfig, MotionConfig, OcclusionConfig, TrackerConfig
from tracker.motion import kalman
from tracker.stages.associate import Matches
from tracker.stages.embed import Appearance
from tracker.stages.identities import Identities
from tracker.stages.predict import Clock, PredictedTracks
from tracker.stages.propose import Proposals
from tracker.stages.select import FrameDetections
from tracker.tracks import lifecycle, occlusion
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FloatArray, Frame, FrameTracks, ImageArray, IntArray, Source, Tracks


@dataclass(frozen=True, slots=True)
class _Current:
    """The tracks of this frame, and where the box of each comes from."""

    bank: TrackBank  # T rows
    detection: IntArray  # (T,) row of the detection, -1: none
    source: NDArray[np.uint8]  # (T,) `Source`
    has_box: BoolArray  # (T,) detected, proposed or predicted in this frame: output, once confirmed


def update(
    frame: Frame,
    image: ImageArray | None,
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    proposals: Proposals,
    overlaps: Overlaps,
    shown_as_predicted: BoolArray,
    clock: Clock,
    appearance: Appearance,
    identities: Identities,
    config: TrackerConfig,
) -> tuple[TrackBank, Tracks, list[FrameTracks]]:
    """The bank after this frame, its output, and rows of earlier frames that became known.

    shown_as_predicted (T,): tracks output with their predicted box. The output has these and the confirmed tracks that
    were detected or proposed, by identity; the earlier rows are those of tentative tracks that this frame confirmed or
    absorbed.
    """
    known, absorbed = tracks.bank, matches.absorbed.nonzero()[0]
    heir = matches.track[matches.handed_over[absorbed]]
    backfilled = identities.resolve(known.key[absorbed], known.id[heir], known.shown_index[heir])

    source = np.full(len(known), Source.DETECTED.value, np.uint8)
    source[shown_as_predicted] = Source.OCCLUDED if clock.detector_ran else Source.PREDICTED
    source[proposals.track] = Source.PROPOSED
    has_box = matches.matched | shown_as_predicted
    has_box[proposals.track] = True
    boxes = measured_boxes(tracks, dets, matches, proposals, frame.width, config.occlusion)
    bank = correct(tracks, dets, matches, proposals, boxes, config.motion)
    current = _Current(bank, matches.detection, source, has_box)
    if clock.detector_ran:
        remembered = appearance.known(bank.slot) & config.association.reassociate
        stays = lifecycle.alive(bank, matches.matched, remembered, frame.time_s, config.lifecycle) & ~matches.absorbed
        current = _delete(current, stays, appearance)
    new = _without_track(known, dets, matches, overlaps, config)
    current = _create(current, new, dets, frame.time_s, appearance, identities, config.motion)
    appearance.store(frame, dets, overlaps, current.bank, current.detection)
    bank, confirmed_rows = _confirm(current.bank, identities, config.lifecycle)
    if not clock.detector_ran:
        current.source[~bank.confirmed] = Source.PREDICTED  # the next run of the detector decides about them
        current.has_box[~bank.confirmed] = True
    bank, output = _output(frame, image, dets, replace(current, bank=bank), appearance, identities)
    return bank, output, backfilled + confirmed_rows


# ---------------------------------------------------------------------------------------------------------- the filter


def measured_boxes(
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    proposals: Proposals,
    width: int,
    config: OcclusionConfig,
) -> FloatArray:
    """(T, 4) xyxy box that each track was detected or proposed with; the predicted one where there is none.

    Detections of confirmed tracks that an occluder or the edge of the image cuts are widened, see `occlusion.widened`;
    width of the image in pixels, 0: unknown.
    """
    bank, rows, measured = tracks.bank, matches.matched.nonzero()[0], tracks.boxes.copy()
    measured[rows] = dets.boxes.take(matches.detection[rows], axis=0)
    if config.enabled:
        found = bank.confirmed[rows]
        known, front = rows[found & ~matches.reassociated[rows]], measured.take(rows[found], axis=0)
        measured[known] = occlusion.widened(
            measured.take(known, axis=0), tracks.boxes.take(known, axis=0), front, width, config
        )
    measured[proposals.track] = proposals.boxes
    return measured


def correct(
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    proposals: Proposals,
    boxes: FloatArray,
    config: MotionConfig,
) -> TrackBank:
    """The predicted bank after the Kalman correction of matched and proposed tracks; boxes (T, 4) measured.

    The noise of a detection depends on its score (NSA, docs/method.md, 1), that of a proposal does not.
    """
    bank, detected = tracks.bank, matches.matched
    of_detection = matches.detection[detected]
    scores, classes = dets.scores[of_detection], dets.classes[of_detection]
    with_box, noise = detected.copy(), np.ones(len(bank))
    with_box[proposals.track] = True
    noise[detected] = kalman.score_noise(scores, config)
    z = bx.xyxy_to_cxcyah(boxes)
    mean, cov = kalman.correct(bank.mean, bank.cov, z, config, noise)
    mean = np.where(with_box[:, None], mean, bank.mean)
    cov = np.where(with_box[:, None, None], cov, bank.cov)

    again = matches.reassociated.nonzero()[0]
    if len(again):
        # The prediction through the gap is worth less than the detection: start again, with the mean velocity.
        mean[again], cov[again] = kalman.initiate(z[again], config)
        gap_s = np.maximum(tracks.time_s - bank.seen_s[again], 1.0 / config.reference_hz)
        mean[again, 4:6] = (z[again, :2] - bank.seen_xy[again]) / gap_s[:, None]

    score, class_id, class_lead = bank.score.copy(), bank.class_id.copy(), bank.class_lead.copy()
    score[detected], score[proposals.track] = scores, proposals.scores
    before = class_id[detected]
    lead = class_lead[detected] + np.where(classes == before, scores, -scores)
    class_id[detected], class_lead[detected] = np.where(lead < 0, classes, before), np.abs(lead)
    return bank.with_(
        mean=mean,
        cov=cov,
        hits=bank.hits + detected,
        seen_s=np.where(detected, tracks.time_s, bank.seen_s),
        seen_xy=np.where(detected[:, None], z[:, :2], bank.seen_xy),
        score=score,
        class_id=class_id,
        class_lead=class_lead,
    )


# ------------------------------------------------------------------------------------------------------- the lifecycle


def _without_track(
    known: TrackBank, dets: FrameDetections, matches: Matches, overlaps: Overlaps, config: TrackerConfig
) -> IntArray:
    """(n,) rows of the detections that create tracks: no track has them, nor one that overlaps them much."""
    create_score = max(config.detection.strong_score, config.lifecycle.birth_score)
    creates = (matches.track < 0) & (dets.scores >= create_score)
    i, j, iou = overlaps.among_detections
    near = ((iou > lifecycle.NEW_TRACK_IOU) & (dets.group[i] == dets.group[j])).nonzero()[0]
    i, j = np.concatenate([i[near], j[near]]), np.concatenate([j[near], i[near]])
    tracked = np.zeros(len(dets), bool)
    tracked[matches.detection[matches.matched & known.confirmed]] = True
    creates[i[tracked[j]]] = False
    return creates.nonzero()[0]


def _delete(current: _Current, stays: BoolArray, appearance: Appearance) -> _Current:
    """Only the tracks that stay (T,); the gallery slots of the others become free."""
    if np.count_nonzero(stays) == len(stays):
        return current
    appearance.gallery.release(current.bank.slot[~stays])
    return _Current(current.bank.keep(stays), current.detection[stays], current.source[stays], current.has_box[stays])


def _create(
    current: _Current,
    detection: IntArray,
    dets: FrameDetections,
    time_s: float,
    appearance: Appearance,
    identities: Identities,
    config: MotionConfig,
) -> _Current:
    """The tracks, and one new tentative track for each of these detections (n,)."""
    n = len(detection)
    if n == 0:
        return current
    z = bx.xyxy_to_cxcyah(dets.boxes[detection])
    mean, cov = kalman.initiate(z, config)
    created = TrackBank(
        key=identities.new_keys(n), id=np.zeros(n, np.int64), mean=mean, cov=cov, hits=np.ones(n, np.int64),
        seen_s=np.full(n, time_s), seen_xy=z[:, :2],
        shown_index=np.full(n, -1), score=dets.scores[detection], group=dets.group[detection],
        class_id=dets.classes[detection], class_lead=dets.scores[detection],
        slot=appearance.gallery.allocate(n),
    )  # fmt: skip
    return _Current(
        current.bank.append(created),
        np.concatenate([current.detection, detection]),
        np.concatenate([current.source, np.full(n, Source.DETECTED, np.uint8)]),
        np.concatenate([current.has_box, np.full(n, True)]),
    )


def _confirm(bank: TrackBank, identities: Identities, config: LifecycleConfig) -> tuple[TrackBank, list[FrameTracks]]:
    """The bank with identities for tracks with `confirm_hits` detections, and their rows of earlier frames."""
    confirmed = lifecycle.newly_confirmed(bank, config).nonzero()[0]
    if len(confirmed) == 0:
        return bank, []
    ids = bank.id.copy()
    ids[confirmed] = identities.new_ids(len(confirmed))  # ascending by age
    bank = bank.with_(id=ids)
    return bank, identities.resolve(bank.key[confirmed], ids[confirmed], bank.shown_index[confirmed])


def _output(
    frame: Frame,
    image: ImageArray | None,
    dets: FrameDetections,
    current: _Current,
    appearance: Appearance,
    identities: Identities,
) -> tuple[TrackBank, Tracks]:
    """The bank, and the confirmed tracks to output, by identity; tentative ones are kept until they are confirmed."""
    bank, detection, source, confirmed = current.bank, current.detection, current.source, current.bank.confirmed
    det_index = np.concatenate([dets.row, [-1]])[detection]
    features = appearance.output_features(image, dets, bank, detection, source)

    def tracks_of(rows: IntArray) -> Tracks:
        boxes = bx.cxcyah_to_xyxy(bank.mean.take(rows, axis=0)[:, :4])
        return Tracks(
            boxes, bank.id[rows], bank.score[rows], bank.class_id[rows],
            det_index[rows], source[rows], None if features is None else features[rows],
        )  # fmt: skip

    tentative = (current.has_box & ~confirmed).nonzero()[0]
    identities.keep_tentative(frame.index, bank.key[tentative], tracks_of(tentative))
    shown = (current.has_box & confirmed).nonzero()[0]
    shown_index = bank.shown_index.copy()
    shown_index[shown] = frame.index
    return bank.with_(shown_index=shown_index), tracks_of(shown[bank.id[shown].argsort()])
