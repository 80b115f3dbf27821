"""The bundled network: its file, how it is found, and people in a real picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.api import track_video
from tracker.boxes import iou
from tracker.detector.onnx import PERSON_FORMAT
from tracker.detector.open import open_detector
from tracker.detector.public import PublicDetections
from tracker.errors import ConfigError, ModelError
from tracker.eval.mot_files import read_ground_truth
from tracker.runtime.onnx_session import open_session
from tracker.sources.open import open_source
from tracker.types import Frame

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "person.onnx"
MAX_PARAMETERS = 2_000_000


@pytest.fixture(scope="module")
def person():
    return open_detector(device="cpu", threads=1)


def frame(image):
    return Frame(3, 0.1, image, image.shape[1], image.shape[0])


def test_bundled_model_metadata():
    session = open_session(WEIGHTS, "cpu", 1)
    said = session.metadata
    assert said["tracklet.format"] == PERSON_FORMAT
    assert said["name"] == "person"
    assert said["trained_on"]
    assert int(said["parameters"]) <= MAX_PARAMETERS
    assert session.inputs[0].shape == (None, 3, None, None)


def test_bundled_model_is_small_and_self_contained():
    tensors = onnx.load(WEIGHTS, load_external_data=False).graph.initializer
    assert not any(tensor.external_data for tensor in tensors)
    assert 100_000 < sum(int(np.prod(tensor.dims)) for tensor in tensors) <= MAX_PARAMETERS


def test_bundled_model_is_the_default(person, tmp_path, monkeypatch):
    assert person.path == WEIGHTS
    assert person.layout == "person"
    assert open_detector(model="person", device="cpu").path == WEIGHTS
    (tmp_path / "det.txt").write_text("1,-1,1,1,2,3,0.5\n")
    assert isinstance(open_detector(detections=tmp_path / "det.txt"), PublicDetections)
    with pytest.raises(ConfigError, match="size of 416 is for a network; detections from a file have none"):
        open_detector(detections=tmp_path / "det.txt", size=416)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person").mkdir()  # a folder of that name is no model
    assert open_detector(model="person", device="cpu").path == WEIGHTS
    (tmp_path / "person").rmdir()
    (tmp_path / "person").write_bytes(b"")
    with pytest.raises(ModelError, match=r"^person: the file is empty"):
        open_detector(model="person")


def test_bundled_model_is_the_only_one_loaded(tmp_path, monkeypatch):
    """In a run without `--detector` and without appearance; use C runs the same network again."""
    opened = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda model, *a, **k: (opened.append(model), original(model, *a, **k))[1]
    )
    write_sequence(make_scene(0, n_people=2, n_frames=3, width=128, height=96), tmp_path / "one")
    assert len(list(track_video(tmp_path / "one", reid=None, device="cpu"))) == 3
    assert opened == [WEIGHTS.read_bytes()]


@pytest.mark.parametrize("model", [None, "person"])
def test_bundled_model_missing_is_one_line(monkeypatch, model):
    monkeypatch.setattr("tracker.detector.open.PACKAGED", "absent.onnx")
    wanted = re.escape(f"{WEIGHTS.with_name('absent.onnx')}: no such model file")
    with pytest.raises(ModelError, match=f"^{wanted}$"):
        open_detector(model=model)


def test_bundled_model_input_size_follows_its_metadata(person):
    own = int(open_session(WEIGHTS, "cpu", 1).metadata["imgsz"])
    assert max(person._input_size(1080, 1920)) == own
    assert person._input_size(120, 160) == (128, 160)  # nothing is enlarged
    assert open_detector(size=96, device="cpu")._input_size(1080, 1920) == (64, 96)


def test_bundled_model_is_its_own_second_look(person):
    assert person.second_look is person


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (240, 320), (300, 20)])
def test_bundled_model_on_noise_gives_valid_repeatable_boxes(person, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    first, second = person.detect(frame(image)), person.detect(frame(image))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.boxes.shape == (len(first), 4)
    assert ((first.scores >= 0) & (first.scores <= 1)).all()
    assert (first.boxes[:, :2] >= 0).all()
    assert (first.boxes[:, 2:] <= [size[1], size[0]]).all()


def test_bundled_model_has_one_class(person):
    assert person.class_names == {0: "person"}
    with pytest.raises(ModelError, match="no class 'car'; there are: person, or numbers 0"):
        open_detector(classes=["car"], device="cpu")


@pytest.mark.data
def test_bundled_model_finds_most_people_of_vtest(person, data_root):
    """In the four best-scored boxes for each three people, over frames of its first fifteen seconds."""
    video, truth = data_root / "videos/vtest.avi", data_root / "mot15/train/PETS09-S2L1/gt/gt.txt"
    if not (video.exists() and truth.exists()):
        pytest.skip(f"no {video} or {truth}")
    table = read_ground_truth(truth).table
    n_people = n_found = 0
    with open_source(video) as source:
        for image in source:
            if image.index > 150:
                break
            if image.index % 30:
                continue
            people = table.boxes[table.frame == image.index + 1] - 1
            best = person.detect(image).boxes[: -(-4 * len(people) // 3)]
            n_people += len(people)
            n_found += int((iou(best, people).max(axis=0) > 0.5).sum())
    assert n_people > 20
    assert n_found >= 0.7 * n_people
