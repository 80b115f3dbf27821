"""Columns of the bank, and the lifecycle rules on single rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.oracles.banks import bank_of
from tracker.config import LifecycleConfig
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank

LIFE = LifecycleConfig(confirm_hits=3, coast_s=1.0, lost_s=3.0)


def test_keep_append_and_with_act_on_every_column(rng):
    bank = bank_of(4, score=rng.random(4))
    both = bank.keep(np.array([True, False, True, False])).append(bank.keep(np.array([3])))
    for field in dataclasses.fields(TrackBank):
        assert np.array_equal(getattr(both, field.name), getattr(bank, field.name)[[0, 2, 3]])
    changed = bank.with_(score=np.zeros(4))
    assert not changed.score.any()
    assert bank.score.all()
    assert len(TrackBank.empty().append(bank)) == 4
    assert len(TrackBank.empty()) == 0


# age in seconds, confirmed, matched, remembered -> active, reassociable, alive
LIVES = [
    (0.0, False, True, False, True, False, True),  # tentative and matched
    (0.04, False, False, False, True, False, False),  # tentative and missed: ends at once
    (1.0, True, False, False, True, True, True),  # the limit itself is within
    (1.01, True, False, False, False, True, False),  # no gallery
    (1.01, True, False, True, False, True, True),
    (3.0, True, False, True, False, True, True),
    (3.01, True, False, True, False, False, False),
    (0.0, True, True, False, True, False, True),
]


@pytest.mark.parametrize(("age_s", "confirmed", "matched", "remembered", "active", "reassociable", "alive"), LIVES)
@pytest.mark.parametrize("now_s", [5.0, 86400.0])
def test_lifecycle_rules(age_s, confirmed, matched, remembered, active, reassociable, alive, now_s):
    bank = bank_of(1, id=[int(confirmed)], seen_s=[now_s - age_s])
    matched, remembered = np.array([matched]), np.array([remembered])
    assert lifecycle.active(bank, now_s, LIFE).tolist() == [active]
    assert lifecycle.reassociable(bank, matched, now_s, LIFE).tolist() == [reassociable]
    assert lifecycle.alive(bank, matched, remembered, now_s, LIFE).tolist() == [alive]


def test_newly_confirmed_tentative_tracks_with_enough_hits():
    bank = bank_of(4, hits=[3, 2, 5, 3], id=[0, 0, 4, 0])
    assert lifecycle.newly_confirmed(bank, LIFE).tolist() == [True, False, False, True]
