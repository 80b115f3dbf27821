"""The gallery against a dictionary of lists, with tracks created and deleted at random."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.appearance.gallery import Gallery

SIZE = 5


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class SlowGallery:
    """slot -> list of embeddings, oldest first."""

    def __init__(self, size: int):
        self.size = size
        self.slots: dict[int, list] = {}

    def write(self, slot, embedding):
        self.slots[slot] = [*self.slots[slot], embedding.astype(float)][-self.size :]

    def mean(self, slot):
        total = np.sum(self.slots[slot], axis=0)
        return total / np.linalg.norm(total)


def check_equal(fast: Gallery, slow: SlowGallery, rng):
    slots = np.array(sorted(slow.slots), np.int64)
    assert fast.counts(slots).tolist() == [len(slow.slots[s]) for s in slots]
    for slot in slots:
        stored = {row.tobytes() for row in fast.entries(int(slot))}
        assert stored == {row.astype(np.float32).tobytes() for row in slow.slots[int(slot)]}
        np.testing.assert_allclose(np.linalg.norm(fast.entries(int(slot)), axis=1), 1, atol=1e-6)
    probe = unit(rng, 3, fast.dim or 4)
    mean = fast.dist_mean(slots, probe)
    for i, slot in enumerate(slots):
        for j, each in enumerate(probe.astype(float)):
            wanted = 1 - slow.mean(int(slot)) @ each if slow.slots[int(slot)] else 1.0
            assert mean[i, j] == pytest.approx(wanted, abs=1e-5)
    full = [int(s) for s in slots if slow.slots[int(s)]]
    if full:
        probe = unit(rng, len(full), fast.dim)
        pairs = fast.dist_pairs(np.array(full), probe)
        for k, slot in enumerate(full):
            assert pairs[k] == pytest.approx(1 - slow.mean(slot) @ probe[k].astype(float), abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_gallery_equals_a_dictionary_of_lists(seed):
    rng = np.random.default_rng(seed)
    fast, slow = Gallery(SIZE), SlowGallery(SIZE)
    for _ in range(120):
        alive = np.array(sorted(slow.slots), np.int64)
        choice = rng.random()
        if choice < 0.25 or len(alive) == 0:
            for slot in fast.allocate(int(rng.integers(0, 4))):
                assert int(slot) not in slow.slots  # never a slot in use
                slow.slots[int(slot)] = []
        elif choice < 0.4:
            ends = rng.choice(alive, rng.integers(0, len(alive) + 1), replace=False)
            fast.release(ends)
            for slot in ends:
                del slow.slots[int(slot)]
        else:
            written = rng.choice(alive, rng.integers(0, len(alive) + 1), replace=False)
            embeddings = unit(rng, len(written), 8)
            fast.write(written, embeddings)
            for slot, embedding in zip(written, embeddings, strict=True):
                slow.write(int(slot), embedding)
        check_equal(fast, slow, rng)


def test_memory_is_that_of_the_largest_crowd():
    gallery = Gallery(SIZE)
    highest = 0
    for _ in range(300):
        slots = gallery.allocate(7)
        highest = max(highest, int(slots.max()))
        gallery.release(slots)
    assert highest < 14


def test_released_slot_is_empty(rng):
    gallery = Gallery(SIZE)
    slot = gallery.allocate(1)
    for _ in range(SIZE + 2):
        gallery.write(slot, unit(rng, 1, 8))
    gallery.release(slot)
    again = gallery.allocate(1)
    assert gallery.counts(again).tolist() == [0]
    assert not gallery.means(again).any()
    emb = unit(rng, 1, 8)
    gallery.write(again, emb)
    assert np.array_equal(gallery.entries(int(again[0])), emb)
    np.testing.assert_allclose(gallery.means(again), emb, atol=1e-6)


def test_mean_embedding_does_not_drift_over_long_tracks(rng):
    gallery = Gallery(SIZE)
    slot = gallery.allocate(1)
    embeddings = unit(rng, 20000, 4)
    for emb in embeddings:
        gallery.write(slot, emb[None])
    total = embeddings[-SIZE:].astype(float).sum(0)
    np.testing.assert_allclose(gallery.means(slot)[0], total / np.linalg.norm(total), atol=1e-6)


def test_opposite_embeddings_have_no_mean_direction():
    gallery = Gallery(SIZE)
    slot = gallery.allocate(1)
    for sign in (1.0, -1.0):
        gallery.write(slot, np.array([[sign, 0]], np.float32))
    assert not gallery.means(slot).any()
    assert gallery.dist_mean(slot, np.array([[1, 0]], np.float32)).tolist() == [[1.0]]


def test_another_dimension_is_refused(rng):
    gallery = Gallery(SIZE)
    slots = gallery.allocate(2)
    gallery.write(slots, unit(rng, 2, 8))
    with pytest.raises(ValueError, match="size 8, got size 4"):
        gallery.write(slots, unit(rng, 2, 4))


def test_empty_gallery_matches_nothing(rng):
    gallery = Gallery(SIZE)
    slots = gallery.allocate(2)
    assert gallery.dim == 0
    assert (gallery.dist_mean(slots, unit(rng, 3, 8)) == 1).all()
    assert (gallery.dist_pairs(slots, unit(rng, 2, 8)) == 1).all()


def test_empty_input_gives_empty_output(rng):
    gallery = Gallery(SIZE)
    none = np.zeros(0, np.int64)
    gallery.write(none, unit(rng, 0, 8))
    assert gallery.dist_mean(none, unit(rng, 3, 8)).shape == (0, 3)
    assert gallery.dist_pairs(none, unit(rng, 0, 8)).shape == (0,)
    slots = gallery.allocate(1)
    gallery.write(slots, unit(rng, 1, 8))
    assert gallery.dist_mean(slots, unit(rng, 0, 8)).shape == (1, 0)
