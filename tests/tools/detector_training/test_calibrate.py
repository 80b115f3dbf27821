"""Scores as probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from reid_training.errors import DataError
from tests.synthetic.drawn_people import small_config
from tools.detector_training import calibrate as module
from tools.detector_training.calibrate import calibrate, platt
from tools.detector_training.export import export
from tools.detector_training.net import PersonNet
from tools.detector_training.train import train
from tracker.runtime.onnx_session import open_session


def test_it_finds_the_slope_and_shift_that_made_the_labels(rng):
    scores = rng.uniform(0.02, 0.8, 50_000)
    right = rng.random(50_000) < expit(3.0 * logit(scores) + 1.5)
    assert platt(scores, right) == pytest.approx((3.0, 1.5), abs=0.1)


def test_probabilities_stay_where_they_are(rng):
    scores = rng.uniform(0.0, 1.0, 50_000)
    assert platt(scores, rng.random(50_000) < scores) == pytest.approx((1.0, 0.0), abs=0.05)


def test_without_right_boxes_it_says_so(data):
    config = small_config(epochs=1)
    with pytest.raises(DataError, match="50 right and wrong are needed"):
        calibrate(PersonNet(config.net).eval(), config, data)


@pytest.mark.slow
def test_the_exported_scores_are_the_calibrated_ones(data, tmp_path, monkeypatch):
    train(small_config(epochs=1), data, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "raw.onnx")
    monkeypatch.setattr("tools.detector_training.export.calibrate", lambda *_: (2.0, 0.5))
    said = export(tmp_path / "run", tmp_path / "net.onnx", data=data)
    assert (said["score_slope"], said["score_shift"]) == ("2", "0.5")
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 96, 128)).astype(np.float32)
    (raw,), (got,) = (open_session(tmp_path / name, "cpu", 1).run(images) for name in ("raw.onnx", "net.onnx"))
    np.testing.assert_allclose(got[..., 4], expit(2.0 * logit(raw[..., 4]) + 0.5), atol=1e-5)
    np.testing.assert_array_equal(got[..., :4], raw[..., :4])
    assert module.LEAST_BOXES == 50
