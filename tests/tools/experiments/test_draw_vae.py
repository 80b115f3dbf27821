"""Pictures of a triplet VAE: the sheet's layout, and a run that cannot draw."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from reid_training.config import from_dict
from reid_training.data import market1501
from reid_training.data.synthetic import write_market_folder
from reid_training.train import train
from tools.experiments import draw_vae


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return write_market_folder(tmp_path_factory.mktemp("market") / "drawn")


def run_of(tmp_path, market, options):
    config = from_dict(
        {
            "data": {"val_fraction": 0.25, "height": 32, "width": 16, "n_ids": 4, "n_per_id": 4},
            "net": {"name": "conv4", "width": 0.25, "embedding_size": 8},
            "schedule": {"epochs": 1, "warmup_epochs": 1, "ema_decay": 0.9, "precision": "fp32", "threads": 1},
            "method": {"name": "triplet_vae", **options},
        }
    )
    train(config, market1501.read(market), tmp_path / "run")
    return tmp_path / "run"


def test_sheet_places_images_in_rows():
    rows = [torch.zeros(3, 1, 4, 2), torch.full((3, 3, 4, 2), 0.5)]
    rows[1][1, 0] = 1.0  # the red of the middle picture below
    pixels = draw_vae.sheet(rows, enlarge=2)
    assert pixels.shape == (2 * 2 * 6, 2 * 3 * 4, 3)
    assert (pixels[:8, :4] == 0).all()
    assert (pixels[8:12] == 255).all()  # between rows
    assert (pixels[:, 4:8] == 255).all()  # between columns
    np.testing.assert_array_equal(pixels[12, 8], [128, 128, 255])


def test_people_are_drawn_from_a_run(tmp_path, market):
    run = run_of(tmp_path, market, {})
    assert draw_vae.main([str(tmp_path / "p.png"), "--run", str(run), "--data", str(market), "--n", "3"]) == 0
    assert cv2.imread(str(tmp_path / "p.png")).shape == (2 * 4 * 34, 2 * 3 * 18, 3)


def test_run_without_decoder_is_named(tmp_path, market, capsys):
    run = run_of(tmp_path, market, {"vae_weight": 0.0})
    assert draw_vae.main([str(tmp_path / "p.png"), "--run", str(run), "--data", str(market)]) == 2
    assert "is no run of the method triplet_vae with a decoder" in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_digits_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    arrays = {f"x_{part}": rng.integers(0, 256, (40, 28, 28), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "mnist" / "mnist.npz", y_train=np.arange(40) % 10, y_test=np.arange(40) % 10, **arrays)
    setting = dataclasses.replace(draw_vae.mnist.SETTINGS["method"], n_epochs=1, n_triplets=16)
    rows = draw_vae.digits(tmp_path, "mnist", 5, setting)
    assert [tuple(row.shape) for row in rows] == [(5, 1, 28, 28)] * 3
    assert all(((row >= 0) & (row <= 1)).all() for row in rows)


def test_image_of_another_kind_is_rejected(tmp_path, capsys):
    assert draw_vae.main([str(tmp_path / "d.gif"), "--data", str(tmp_path)]) == 2
    assert "d.gif must end in .png or .jpg" in capsys.readouterr().err


def test_missing_digits_give_one_line(tmp_path, capsys):
    assert draw_vae.main([str(tmp_path / "d.png"), "--data", str(tmp_path)]) == 2
    assert "no file" in capsys.readouterr().err
