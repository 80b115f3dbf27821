"""The metric that learns while tracking: its law, its bounds, the way back, and that it is off unless asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.oracles.runs import config_of, run, run_settled, same, text
from tests.oracles.streams import wild_stream, with_identity_embeddings
from tracker import Tracker
from tracker.appearance.gallery import Gallery
from tracker.appearance.online_metric import OnlineMetric, frame_triplets
from tracker.engine import Engine
from tracker.errors import ConfigError

ON = {"appearance.online": True}
D = 12


def unit(rng, *shape) -> np.ndarray:
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def cosine_dist(rows: np.ndarray, others: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """1 - x'My / sqrt(x'Mx y'My), one pair at a time."""
    out = np.zeros((len(rows), len(others)))
    for i, x in enumerate(rows.astype(float)):
        for j, y in enumerate(others.astype(float)):
            out[i, j] = 1 - x @ matrix @ y / np.sqrt((x @ matrix @ x) * (y @ matrix @ y))
    return out


def learned(rng, n=40, rate=0.01, reach=0.5) -> OnlineMetric:
    metric = OnlineMetric(rate, reach)
    metric.learn(unit(rng, n, 3, D))
    return metric


def test_one_layer_of_the_training_toolkit_learns_the_same():
    pytest.importorskip("torch")  # the toolkit's package needs it, the layer does not
    from reid_training.methods.odml import ODML

    rng = np.random.default_rng(0)
    triplets, rows = unit(rng, 60, 3, D), unit(rng, 7, D)
    metric = OnlineMetric(0.002, 0.9)
    metric.learn(triplets[:25])
    metric.learn(triplets[25:])
    layer = ODML(gamma=0.002, step="exact").partial_fit_triplets(triplets)
    assert 0.01 < np.linalg.norm(metric.offset) < 0.9, "the bound was not reached: nothing of ours is in the way"
    np.testing.assert_allclose(metric.offset, layer.layers_[0].metric - np.eye(D), atol=1e-8)
    theirs = layer.transform(rows)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = metric.transform(rows)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)


def test_transformed_rows_have_the_cosines_of_the_metric():
    rng = np.random.default_rng(1)
    metric, rows, others = learned(rng), unit(rng, 6, D), unit(rng, 4, D)
    moved = metric.transform(rows)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    expected = cosine_dist(rows, others, np.eye(D) + metric.offset)
    np.testing.assert_allclose(1 - moved @ metric.transform(others).T, expected, atol=1e-6)
    np.testing.assert_array_equal(metric.transform(np.zeros((2, D), np.float32)), np.zeros((2, D)))
    assert metric.transform(np.zeros((0, 0), np.float32)).shape == (0, 0)


def test_the_gallery_measures_by_it_and_stores_what_it_was_given():
    rng = np.random.default_rng(2)
    metric = learned(rng)
    ours, plain = Gallery(3, metric), Gallery(3)
    entries, probe = unit(rng, 5, 2, D), unit(rng, 2, D)
    for gallery in (ours, plain):
        slots = gallery.take_slots(2)
        for each in entries:
            gallery.write(slots, each)
    matrix = np.eye(D) + metric.offset
    np.testing.assert_array_equal(ours.means(slots), plain.means(slots))
    np.testing.assert_array_equal(ours.oldest(slots), entries[2])  # 5 were written, 3 stay
    to_means = cosine_dist(plain.means(slots), probe, matrix)
    np.testing.assert_allclose(ours.dist_mean(slots, probe), to_means, atol=1e-6)
    np.testing.assert_allclose(ours.dist_pairs(slots, probe), np.diag(to_means), atol=1e-6)
    for slot in slots:
        np.testing.assert_array_equal(ours.entries(int(slot)), plain.entries(int(slot)))
        each = cosine_dist(plain.entries(int(slot)), probe, matrix)
        np.testing.assert_allclose(ours.dist_min(slots[[slot]], probe)[0], each.min(axis=0), atol=1e-6)
        for quantile, rank in ((0.0, 0), (0.5, 1), (1.0, 2)):
            found = ours.dist_quantile(slots[[slot]], probe[:1], quantile)[0]
            assert found == pytest.approx(np.sort(each[:, 0])[rank], abs=1e-6)


@pytest.mark.parametrize(("rate", "reach"), [(0.002, 0.3), (0.05, 0.3), (1.0, 0.9), (1.0, 0.0)])
def test_steps_and_distance_from_the_identity_are_bounded(rate, reach):
    rng = np.random.default_rng(3)
    metric, before = OnlineMetric(rate, reach), np.zeros((D, D))
    for triplet in unit(rng, 200, 3, D):
        metric.learn(triplet[None])
        after = np.zeros((D, D)) if metric.offset is None else metric.offset
        near, far = triplet[0] - triplet[1], triplet[0] - triplet[2]
        # |A| <= |near|^2 + |far|^2, and to come back into a ball moves no two points apart.
        assert np.linalg.norm(after - before) <= rate * (near @ near + far @ far) + 1e-9
        assert np.linalg.norm(after) <= reach + 1e-9
        assert np.linalg.eigvalsh(np.eye(D) + after)[0] >= 1 - reach - 1e-9
        np.testing.assert_array_equal(after, after.T)
        before = after
    assert np.isfinite(metric.transform(unit(rng, 3, D))).all()


def test_a_triplet_in_order_by_the_margin_and_an_empty_frame_change_nothing():
    x = np.eye(D, dtype=np.float32)[0]
    metric = OnlineMetric(0.1, 0.5)
    metric.learn(np.stack([x, x, -x])[None])  # 1 + 0 - 4
    metric.learn(np.zeros((0, 3, D), np.float32))
    metric.learn(np.stack([x, x, x])[None])  # all the same: a loss, and no direction to learn
    assert metric.offset is None
    rows = unit(np.random.default_rng(0), 3, D)
    assert metric.transform(rows) is rows


def test_a_step_lowers_the_loss_of_its_triplet():
    rng = np.random.default_rng(4)
    for triplet in unit(rng, 50, 3, D):
        metric = OnlineMetric(0.01, 0.9)
        metric.learn(triplet[None])
        near, far = (triplet[0] - triplet[1]).astype(float), (triplet[0] - triplet[2]).astype(float)
        if 1 + near @ near - far @ far > 0:
            assert near @ metric.offset @ near - far @ metric.offset @ far < 0
        else:
            assert metric.offset is None


def test_reset_gives_the_original_back_exactly():
    rng = np.random.default_rng(5)
    metric, rows = learned(rng), unit(rng, 5, D)
    assert not np.array_equal(metric.transform(rows), rows)
    metric.reset()
    assert metric.offset is None
    assert metric.transform(rows) is rows


def test_a_metric_that_is_not_to_learn_stays_as_it_is():
    rng = np.random.default_rng(12)
    metric, rows = learned(rng), unit(rng, 5, D)
    before = metric.transform(rows)
    metric.learning = False
    metric.learn(unit(rng, 20, 3, D))
    np.testing.assert_array_equal(metric.transform(rows), before)
    metric.learning = True
    metric.learn(unit(rng, 20, 3, D))
    assert not np.array_equal(metric.transform(rows), before)


def test_what_is_shown_of_the_metric_is_a_copy():
    metric = learned(np.random.default_rng(6))
    kept = metric.offset
    metric.offset[:] = 7.0
    np.testing.assert_array_equal(metric.offset, kept)


def test_the_oldest_entry_of_a_ring_that_is_not_full_or_empty():
    gallery, rows = Gallery(3), unit(np.random.default_rng(11), 2, 1, D)
    slots = gallery.take_slots(2)
    for row in rows:
        gallery.write(slots[:1], row)
    np.testing.assert_array_equal(gallery.oldest(slots[:1]), rows[0])
    assert gallery.oldest(slots).shape == (2, D)


def test_the_negative_is_the_other_person_most_like_one():
    rng = np.random.default_rng(7)
    features, earlier = unit(rng, 5, D), unit(rng, 5, D)
    triplets = frame_triplets(features, earlier)
    for i, (x, p, q) in enumerate(triplets):
        np.testing.assert_array_equal(x, features[i])
        np.testing.assert_array_equal(p, earlier[i])
        others = [row for j, row in enumerate(features) if j != i]
        np.testing.assert_array_equal(q, max(others, key=lambda row: float(row @ x)))
    assert frame_triplets(features[:1], earlier[:1]).shape == (0, 3, D)
    assert frame_triplets(features[:0], earlier[:0]).shape == (0, 3, D)


def crowd(rng, n_people, n_frames) -> np.ndarray:
    """Unit rows (frames, people, D): who it is stands in 8 numbers, what the light does to everybody in the others."""
    who = np.concatenate([rng.normal(size=(n_people, 8)), np.zeros((n_people, D - 8))], axis=1)
    light = np.concatenate([np.zeros((n_frames, n_people, 8)), rng.normal(size=(n_frames, n_people, D - 8))], axis=2)
    rows = who + 2.0 * light + 0.2 * rng.normal(size=light.shape)
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32)


def separation(rows: np.ndarray) -> float:
    """Share of (same, different) pairs of distances in the right order. rows (frames, people, D)."""
    flat, who = rows.reshape(-1, D), np.tile(np.arange(rows.shape[1]), len(rows))
    sims = flat @ flat.T
    alike = (who[:, None] == who[None]) & ~np.eye(len(who), dtype=bool)
    same_sims, other_sims = sims[alike], sims[who[:, None] != who[None]]
    return float((same_sims[:, None] > other_sims[None]).mean())


@pytest.mark.parametrize("seed", [8, 9, 10])
def test_it_sharpens_on_a_camera_for_people_it_has_not_seen(seed):
    """And more from one earlier look than from the mean of all, in which the light is missing."""
    rng = np.random.default_rng(seed)
    seen, unseen = crowd(rng, 6, 60), crowd(rng, 10, 6)
    found = {}
    for earlier in ("oldest", "means"):
        gallery, metric = Gallery(30), OnlineMetric(0.002, 0.3)
        slots = gallery.take_slots(6)
        for features in seen:
            if (gallery.counts(slots) >= 3).all():
                metric.learn(frame_triplets(features, getattr(gallery, earlier)(slots)))
            gallery.write(slots, features)
        found[earlier] = separation(metric.transform(unseen))
    assert found["oldest"] > separation(unseen) + 0.02
    assert found["oldest"] > found["means"]


# In the engine


def blurred(stream, rng, noise=0.5):
    """Embeddings that know the person, and are wrong by some noise."""
    detections = []
    for seen in with_identity_embeddings(stream).detections:
        rows = seen.features + noise * rng.normal(size=seen.features.shape) / np.sqrt(seen.features.shape[1])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        detections.append(seen.with_features(rows.astype(np.float32)))
    return dataclasses.replace(stream, detections=detections)


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(9)
    return blurred(wild_stream(rng, n_people=5, n_frames=60, chaos=0.3), rng)


def test_it_is_off_unless_asked_for():
    assert Engine(config_of()).looks.metric is None
    assert Engine(config_of(ON)).looks.metric is not None


@pytest.mark.parametrize("still", ["online_rate", "online_reach"])
def test_without_rate_or_reach_the_output_is_that_without_it(stream, still):
    assert same(run(stream), run(stream, {**ON, f"appearance.{still}": 0.0}))


def test_while_it_is_off_rate_and_reach_change_no_byte_of_the_file(stream):
    plain = run_settled(stream)
    assert any(len(tracks) for tracks in plain)
    off = {"appearance.online": False, "appearance.online_rate": 1.0, "appearance.online_reach": 0.9}
    assert text(run_settled(stream, off)) == text(plain)


def test_what_it_learned_changes_the_output(stream):
    """Otherwise the tests around this one compare nothing."""
    assert not same(run(stream), run(stream, {**ON, "appearance.online_rate": 0.1, "appearance.online_reach": 0.9}))


def test_taken_back_before_every_frame_the_output_is_that_without_it(stream):
    tracker, plain = Tracker(config_of(ON, appearance__online_rate=0.1), reid=None), Tracker(reid=None)
    found, expected, learned_something = [], [], False
    for detections, time_s in zip(stream.detections, stream.times, strict=True):
        found.append(tracker.update(detections, timestamp=time_s))
        expected.append(plain.update(detections, timestamp=time_s))
        learned_something |= tracker._engine.looks.metric.offset is not None
        tracker.reset_metric()
    assert learned_something
    assert same(found, expected)


def test_taken_back_for_good_it_learns_nothing_more_and_identities_stay(stream):
    tracker, half = Tracker(config_of(ON), reid=None), len(stream) // 2

    def play(frames) -> set[int]:
        found = [tracker.update(stream.detections[t], timestamp=stream.times[t]) for t in frames]
        return {number for tracks in found for number in tracks.id.tolist()}

    before = play(range(half))
    assert tracker._engine.looks.metric.offset is not None
    tracker.reset_metric(learn=False)
    assert play(range(half, len(stream))) & before
    assert tracker._engine.looks.metric.offset is None
    tracker.reset_metric()
    assert tracker._engine.looks.metric.learning


def test_where_it_is_off_there_is_nothing_to_take_back():
    with pytest.raises(ConfigError, match=r"appearance.online is off"):
        Tracker(reid=None).reset_metric()


def test_it_learns_from_tracks_of_one_frame_and_repeats_itself(stream):
    engines = [Engine(config_of(ON)) for _ in range(2)]
    first, second = (run(stream, engine=engine) for engine in engines)
    assert same(first, second)
    assert 0.0 < np.linalg.norm(engines[0].looks.metric.offset) <= 0.3 + 1e-9
    np.testing.assert_array_equal(engines[0].looks.metric.offset, engines[1].looks.metric.offset)


def test_another_network_begins_with_the_identity(stream):
    engine = Engine(config_of(ON))
    run(stream, engine=engine)
    engine.attach(None)
    assert engine.looks.metric.offset is None


def test_a_frame_with_one_person_teaches_nothing(stream):
    rng = np.random.default_rng(10)
    alone = blurred(wild_stream(rng, n_people=1, n_frames=30, chaos=0.0), rng)
    engine = Engine(config_of(ON))
    run(alone, engine=engine)
    assert engine.looks.metric.offset is None
