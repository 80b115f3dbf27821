"""Embeddings kept in the tracks belong to the right people, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles.runs import OFF, config_of, same
from tests.oracles.streams import wild_stream, with_identity_embeddings
from tracker import Source, Tracker, Tracks
from tracker.engine import Engine
from tracker.finalise import FrameBuffer, merged
from tracker.types import FrameTracks


def settled(stream, engine: Engine, images=None) -> list[Tracks]:
    settler, final = FrameBuffer(), []
    for t in range(len(stream)):
        frame = stream.frame(t, None if images is None else images[t])
        tracks = engine.step(frame, stream.detections[t])
        final += settler.push(frame, tracks, engine.backfilled, engine.settled_before)
    return [tracks for _, tracks in final + settler.flush()]


@pytest.mark.parametrize("seed", range(3))
def test_detected_rows_carry_the_embedding_of_their_detection(seed):
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng))
    plain = settled(stream, Engine(config_of()))
    kept = settled(stream, Engine(config_of(), keep_features=True))
    assert same(plain, kept)
    assert all(tracks.features is None for tracks in plain)
    n_found = n_hidden = 0
    for t, tracks in enumerate(kept):
        if len(tracks) == 0:
            continue
        found = tracks.det_index >= 0
        np.testing.assert_array_equal(tracks.features[found], stream.detections[t].features[tracks.det_index[found]])
        assert np.isnan(tracks.features[~found]).all()
        n_found, n_hidden = n_found + found.sum(), n_hidden + (~found).sum()
    assert n_found > 100


class BoxPrints:
    """An encoder whose embedding of a box depends on the box alone; counts its crops."""

    name = "prints"

    def __init__(self):
        self.n_looks = 0

    def embed(self, image, boxes):
        self.n_looks += len(boxes)
        features = np.stack([np.sin(np.round(boxes).sum(axis=1) * k) + 2 for k in (1, 2, 3)], axis=1)
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def test_kept_features_embed_low_score_detections_too():
    rng = np.random.default_rng(5)
    stream = wild_stream(rng, irregular=False)
    images = [np.zeros((480, 640, 3), np.uint8)] * len(stream)
    encoders = BoxPrints(), BoxPrints()
    plain = settled(stream, Engine(config_of(), encoders[0]), images)
    kept = settled(stream, Engine(config_of(), encoders[1], keep_features=True), images)
    assert same(plain, kept)
    sources = np.concatenate([tracks.source for tracks in kept])
    features = np.concatenate([tracks.features for tracks in kept if len(tracks)])
    looked_at = np.isin(sources, [Source.DETECTED, Source.PROPOSED])
    assert looked_at.sum() > 100
    np.testing.assert_allclose(np.linalg.norm(features[looked_at], axis=1), 1, atol=1e-5)
    assert np.isnan(features[~looked_at]).all()
    assert encoders[1].n_looks >= encoders[0].n_looks


def test_no_use_enabled_embeds_only_for_kept_features():
    stream = wild_stream(np.random.default_rng(1), n_frames=10)
    images = [np.zeros((480, 640, 3), np.uint8)] * len(stream)
    encoders = BoxPrints(), BoxPrints()
    for encoder, keep in zip(encoders, (False, True), strict=True):
        settled(stream, Engine(config_of(OFF), encoder, keep_features=keep), images)
    assert encoders[0].n_looks == 0
    assert encoders[1].n_looks > 0


def test_motion_only_tracks_have_no_features():
    tracker = Tracker(reid=None, keep_features=True)
    for _ in range(4):
        tracks = tracker.update([[10, 20, 50, 120]])
    assert len(tracks) == 1
    assert tracks.features is None


def test_api_tracker_returns_kept_features():
    tracker = Tracker(keep_features=True)
    features = np.eye(2, dtype=np.float32)
    for _ in range(4):
        tracks = tracker.update([[10, 20, 50, 120], [200, 20, 240, 120]], embeddings=features)
    np.testing.assert_array_equal(tracks.features, features[tracks.det_index])
    tracker.reset()
    for _ in range(4):
        tracks = tracker.update([[10, 20, 50, 120]], embeddings=features[:1])
    np.testing.assert_array_equal(tracks.features, features[:1])


def test_selected_and_merged_rows_keep_features():
    a = Tracks(
        np.zeros((2, 4)), np.array([1, 5]), np.ones(2), np.zeros(2, np.int64), np.arange(2), np.zeros(2, np.uint8),
        np.array([[1, 0], [0, 1]], np.float32),
    )  # fmt: skip
    b = replace(a[:1], id=np.array([3]), features=np.array([[0.6, 0.8]], np.float32))
    assert a[1].features.tolist() == [[0, 1]]
    assert a[np.array([False, True])].features.tolist() == [[0, 1]]
    both = merged(a, b)
    assert both.id.tolist() == [1, 3, 5]
    np.testing.assert_array_equal(both.features, np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32))
    # A record without rows may have no size; rows without embeddings leave none for the frame.
    assert merged(Tracks(), b).features.tolist() == b.features.tolist()
    assert merged(b, Tracks()).features.tolist() == b.features.tolist()
    assert merged(a, replace(b, features=None)).features is None
    assert merged(Tracks(), Tracks()).features is None


def test_backfilled_row_in_an_empty_frame_has_features():
    settler = FrameBuffer()
    frame = wild_stream(np.random.default_rng(0), n_frames=1).frame(0)
    late = Tracks(
        np.zeros((1, 4)), np.array([1]), np.ones(1), np.zeros(1, np.int64), np.arange(1), np.zeros(1, np.uint8),
        np.ones((1, 3), np.float32),
    )  # fmt: skip
    ((_, tracks),) = settler.push(frame, Tracks(), [FrameTracks(0, late)], None)
    assert tracks.features.shape == (1, 3)
