"""Data made in Python, and pictures that are read batch by batch: the same runs as from files in memory."""

from __future__ import annotations

import dataclasses
import os
import re
import signal

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from reid_training import train as training
from reid_training.config import from_dict
from reid_training.data import loading
from reid_training.data.base import Samples, read_image
from reid_training.data.from_python import as_dataset, as_picture, from_arrays, from_torch
from reid_training.data.loading import Decoded, Files
from reid_training.embedders import embed_samples
from reid_training.errors import ConfigError, DataError
from reid_training.export import export
from reid_training.nets import register_net
from reid_training.runs import load_checkpoint
from reid_training.train import train
from tests.oracles.training_runs import same_weights

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
CPU = torch.device("cpu")


class Rows(TorchDataset):
    """(image, label, camera) of each row; counts what was read."""

    def __init__(self, images, *columns):
        self.images, self.columns, self.n_read = images, columns, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        self.n_read += 1
        return (self.images[row], *(column[row] for column in self.columns))


@pytest.fixture(scope="module")
def arrays(data):
    """The drawn training images, their people and cameras."""
    samples = data.train
    images = np.stack([read_image(path, 64, 32) for path in samples.paths])
    return images, samples.pids, samples.camids


@pytest.fixture(scope="module")
def expected(tmp_path_factory, data, tiny):
    """Weights of a run whose pictures are files, decoded before."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    train(tiny, data, folder)
    return load_checkpoint(folder)


def same_run(found, expected):
    logs = [[{k: v for k, v in row.items() if k != "images_per_s"} for row in s["history"]] for s in (found, expected)]
    return same_weights(found["ema"], expected["ema"]) and logs[0] == logs[1]


# The same run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "names", "data set", "tensors", "list"])
def test_data_of_python_train_to_the_same_bits_as_files(tmp_path, arrays, expected, tiny, kind):
    images, pids, camids = arrays
    given = {
        "arrays": lambda: (images, pids, camids),
        "names": lambda: (images, [f"bird {pid:03d}" for pid in pids], torch.from_numpy(camids)),
        "data set": lambda: Rows(images, pids, camids),
        "tensors": lambda: Rows(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, pids, camids),
        "list": lambda: list(zip(images, pids, camids, strict=True)),
    }
    train(tiny, given[kind](), tmp_path / "run")
    assert same_run(load_checkpoint(tmp_path / "run"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("loaders", [0, 2])
@pytest.mark.parametrize("kind", ["files", "data set"])
def test_pictures_read_batch_by_batch_give_the_same_bits(
    tmp_path, data, arrays, expected, tiny, kind, loaders, monkeypatch
):
    monkeypatch.setattr(training, "read_inputs", None)
    monkeypatch.setattr(loading, "read_inputs", None)
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, keep="files", loaders=loaders))
    train(config, data if kind == "files" else Rows(*arrays), tmp_path / "run")
    assert same_run(load_checkpoint(tmp_path / "run"), expected)


@pytest.mark.slow
def test_members_of_an_ensemble_read_batch_by_batch(tmp_path, data, tiny):
    method = {"name": "dreml", "members": 2, "meta_classes": 3}
    rows = []
    for keep in ("decoded", "files"):
        config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, keep=keep), method=method)
        rows.append(train(config, data, tmp_path / keep))
    assert [{**row, "images_per_s": 0.0} for row in rows[0]] == [{**row, "images_per_s": 0.0} for row in rows[1]]


@pytest.mark.slow
def test_export_takes_the_data_of_the_run(tmp_path, arrays, tiny):
    train(tiny, arrays, tmp_path / "run")
    found = export(tmp_path / "run", arrays, tmp_path / "net.onnx")
    assert found["pooled"].n_same == 3 * 6 * 5 // 2


@pytest.mark.slow
def test_network_with_dropout_resumes_to_the_same_bits(tmp_path, data, tiny, monkeypatch, registers):
    def build(config):
        layers = (nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*layers)

    register_net("with_dropout", build)
    config = dataclasses.replace(tiny, net=dataclasses.replace(tiny.net, name="with_dropout"))
    train(config, data, tmp_path / "whole")
    real = training.Run.epoch

    def stop_before_the_third(run, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(run, epoch)

    monkeypatch.setattr(training.Run, "epoch", stop_before_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "cut")
    monkeypatch.undo()
    train(config, data, tmp_path / "cut", resume=True)
    assert same_weights(*(load_checkpoint(tmp_path / name)["method"] for name in ("whole", "cut")))


# Pictures


def test_pictures_of_every_kind_are_the_same_array():
    image = pytest.importorskip("PIL.Image")
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)
    for picture in (PICTURE, PICTURE[:, ::-1][:, ::-1], image.fromarray(PICTURE), tensor, tensor / 255):
        np.testing.assert_array_equal(as_picture(picture, "here"), PICTURE)
    grey = image.fromarray(PICTURE[:, :, 0])
    np.testing.assert_array_equal(as_picture(grey, "here"), np.repeat(PICTURE[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (PICTURE[:, :, 0], "ndarray (5, 4) uint8"),
        (PICTURE / 255.0, "ndarray (5, 4, 3) float64"),
        (torch.full((3, 5, 4), 1.5), "Tensor (5, 4, 3) float32"),
        (torch.zeros((1, 5, 4)), "Tensor (5, 4, 1) uint8"),
        (torch.full((3, 5, 4), float("nan")), "Tensor (5, 4, 3) float32"),
        (PICTURE[:0], "ndarray (0, 4, 3) uint8"),
    ],
)
def test_picture_of_another_kind_is_refused(picture, found):
    with pytest.raises(DataError, match=re.escape(f"or in [0, 1]; got {found}")) as caught:
        as_picture(picture, "picture 3 of birds")
    assert str(caught.value).startswith("picture 3 of birds: a picture must be an array (H, W, 3) uint8, RGB")


def test_pictures_of_other_sizes_are_stretched():
    _, second = from_arrays([PICTURE, PICTURE[:3]], ["a", "a"]).train.paths
    np.testing.assert_array_equal(read_image(second, 8, 6), cv2.resize(PICTURE[:3], (6, 8)))


# Labels and parts


def test_labels_are_numbered_and_cameras_unknown_without_any():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    data = from_arrays(images, ["b", "a", "b", "c"], name="birds", licence="mine")
    assert data.train.pids.tolist() == [2, 1, 2, 3]
    assert data.train.camids.tolist() == [-1, -2, -3, -4]
    assert (data.name, data.licence, len(data.query), len(data.gallery)) == ("birds", "mine", 4, 4)
    seen = from_arrays(images, [7, 7, 7, 3], ["x", "x", "y", "x"])
    assert seen.train.camids.tolist() == [1, 1, 2, 1]
    assert seen.query.pids.tolist() == [1, 2, 2], "the first of each label and camera"


def test_targets_of_a_data_set_save_reading_it():
    rows = Rows([PICTURE] * 6, [0, 0, 1, 1, 2, 2])
    rows.targets = torch.tensor([0, 0, 1, 1, 2, 2])
    assert from_torch(rows).train.pids.tolist() == [1, 1, 2, 2, 3, 3]
    assert rows.n_read == 1
    del rows.targets
    assert from_torch(rows).train.pids.tolist() == [1, 1, 2, 2, 3, 3]
    assert rows.n_read == 8


class Endless(IterableDataset):
    def __iter__(self):
        yield PICTURE, 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("birds", "gives"),
        (Endless(), "must be a Dataset, .* got a Endless"),
        (3, "must be a Dataset, .* got a int"),
        (([PICTURE], [1, 2]), "arrays: 1 images, but 2 labels"),
        (([PICTURE], [1], [1, 2]), "arrays: 1 images, but 1 labels and 2 cameras"),
        (([PICTURE] * 2, np.eye(2)), r"labels must be one number or text for each image, got \(2, 2\) float64"),
        (Rows([]), "Rows: no images"),
        (Rows([PICTURE]), r"Rows: must give \(image, label\) or \(image, label, camera\) for each row, gives 1 values"),
        ([PICTURE], "for each row, gives a ndarray"),
    ],
)
def test_data_of_another_kind_are_refused(given, said):
    with pytest.raises(DataError, match=said):
        as_dataset(given)


# Reading by other processes


def damaged(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path in paths:
        path.write_bytes(b"no picture")
    return Samples(tuple(paths), np.array([1, 1, 2, 2]), np.zeros(4, np.int64))


@pytest.mark.parametrize("loaders", [0, 1])
def test_damaged_picture_is_named_in_one_line(tmp_path, loaders):
    with pytest.raises(DataError, match=r"1\.png is not an image, or it is damaged$") as caught:
        list(Files(damaged(tmp_path), 8, 8, CPU, loaders).batches([np.array([1, 2])]))
    assert "\n" not in str(caught.value)


class Killer:
    def __init__(self, parent):
        self.parent = parent

    def read(self):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_killed_process_is_said():
    samples = Samples((Killer(os.getpid()),) * 2, np.array([1, 1]), np.zeros(2, np.int64))
    with pytest.raises(DataError, match=r"a process that reads pictures ended: .*data.loaders = 0 reads in the"):
        list(Files(samples, 8, 8, CPU, 1).batches([np.array([0, 1])]))


@pytest.mark.parametrize("loaders", [0, 2])
def test_batches_are_those_of_memory_in_order(data, loaders):
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, len(data.train), 5) for _ in range(7)]
    state = torch.get_rng_state()
    found = list(Files(data.train, 32, 16, CPU, loaders).batches(batches))
    assert torch.equal(state, torch.get_rng_state())
    for images, kept in zip(found, Decoded(data.train, 32, 16, CPU).batches(batches), strict=True):
        assert torch.equal(images, kept)


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match=r"data.loaders has no meaning for data.keep = decoded"):
        from_dict({"data": {"loaders": 4}})
    with pytest.raises(ConfigError, match=r"data.keep must be one of decoded, files, got 'disk'"):
        from_dict({"data": {"keep": "disk"}})


def test_embedding_reads_pictures_of_python(arrays):
    images, pids, _ = arrays

    class Mean:
        height, width = 64, 32

        def __call__(self, images):
            return images.mean((1, 2)).astype(np.float32)

    found = embed_samples(Mean(), from_arrays(images, pids).train, chunk=7)
    np.testing.assert_array_equal(found, images.mean((1, 2)).astype(np.float32))
