"""Checkpoints: the state of a pipeline passes through the file, and the resumed run is equal to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.oracles.runs import config_of, same
from tests.oracles.streams import scene_stream, wild_stream, with_identity_embeddings
from tests.synthetic.mot import draw, make_scene
from tracker.engine import Engine
from tracker.errors import ResumeError, WriteError
from tracker.pipeline import Pipeline
from tracker.runtime import checkpoint
from tracker.sources.base import Recorded
from tracker.sources.span import WHOLE, Picker
from tracker.types import Frame, Source

N_FRAMES = 48
CUTS = (1, 2, 17, 30, 46)  # frames stepped when the run stops


class Video(Recorded):
    """A stream of arrays as a file."""

    def __init__(self, stream, images=None):
        super().__init__(WHOLE)
        self.stream, self.images = stream, images or [None] * len(stream)
        self.name, self.fps, self.n_frames = "video", 25.0, len(stream)
        self.width, self.height = stream.size

    @property
    def files(self):
        return []

    def __iter__(self):
        picker = Picker(self.span)
        for t, image in enumerate(self.images):
            if self._chosen(picker, t, self.stream.times[t]):
                yield self.stream.frame(t, image)


class Replay:
    name = "replay"

    def __init__(self, stream):
        self.stream = stream

    def detect(self, frame: Frame):
        return self.stream.detections[frame.index]


class Colours:
    """Coarse colours of a crop, centred: alike for one drawn person, different for another."""

    name = "colours"

    def embed(self, image, boxes):
        rows = [np.zeros(96)]
        for x1, y1, x2, y2 in np.rint(boxes).astype(int):
            crop = image[max(y1, 0) : max(y2, 1), max(x1, 0) : max(x2, 1)]
            small = cv2.resize(crop, (4, 8), interpolation=cv2.INTER_AREA) if crop.size else np.zeros((8, 4, 3))
            rows.append(small.ravel() - small.mean())
        table = np.array(rows[1:]).reshape(-1, 96)
        return (table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def scene(camera: str = "still"):
    """Drawn people on a camera that stands, or shakes in the hand."""
    made = make_scene(5, n_people=6, n_frames=N_FRAMES, width=320, height=240, occluded_miss=0.6)
    stream, images = scene_stream(made), list(draw(made))
    if camera == "still":
        return stream, images
    rng = np.random.default_rng(3)
    way = np.rint(np.cumsum(rng.normal(0, 3, (N_FRAMES, 2)), axis=0)).astype(int)
    images = [np.roll(image, tuple(step[::-1]), axis=(0, 1)) for image, step in zip(images, way, strict=True)]
    moved = [replace(d, boxes=d.boxes + np.tile(s, 2)) for d, s in zip(stream.detections, way, strict=True)]
    return replace(stream, detections=moved), images


def with_pictures(settings=(), camera="still"):
    stream, images = scene(camera)
    return lambda: Pipeline(Video(stream, images), Replay(stream), Engine(config_of(settings), Colours()))


def without_pictures(settings=(), embeddings=False, seed=0):
    stream = wild_stream(np.random.default_rng(seed), n_frames=N_FRAMES)
    stream = with_identity_embeddings(stream) if embeddings else stream
    return lambda: Pipeline(Video(stream), Replay(stream), Engine(config_of(settings)))


RUNS = {
    "appearance, proposals, occlusion": with_pictures(),
    "a camera that moves": with_pictures(camera="shaken"),
    "the detector runs at one frame in three": with_pictures({"detection.every": 3}),
    "late confirmation": with_pictures({"lifecycle.confirm_hits": 6, "detection.every": 2}),
    "boxes only": without_pictures(),
    "embeddings of the caller": without_pictures(embeddings=True, seed=1),
}


def went_through(path: Path, state):
    checkpoint.save(path, state)
    return checkpoint.load(path)


@pytest.mark.parametrize("name", RUNS)
def test_pipeline_resumed_is_bit_equal(name, tmp_path):
    whole, saved, given = [], {}, {}
    pipeline = RUNS[name]()

    def between_frames(last):
        if pipeline.n_frames in CUTS:
            saved[pipeline.n_frames] = went_through(tmp_path / "x.resume", pipeline.state())
            given[pipeline.n_frames] = len(whole)

    for frame, tracks in pipeline.frames(between_frames):
        whole.append((frame, tracks))
    assert saved.keys() == set(CUTS)
    assert any(len(saved[cut]["held"]) for cut in CUTS)
    for cut, state in saved.items():
        again = RUNS[name]()
        again.restore(state)
        rest = list(again)
        expected = whole[given[cut] :]
        assert [(f.index, f.time_s) for f, _ in rest] == [(f.index, f.time_s) for f, _ in expected]
        assert same([tracks for _, tracks in rest], [tracks for _, tracks in expected]), cut
        assert all(f.image is g.image for (f, _), (g, _) in zip(rest, expected, strict=True))
        assert again.n_frames == pipeline.n_frames
        assert again.n_crops == pipeline.n_crops


def test_runs_cover_all_box_sources():
    sources = np.concatenate([tracks.source for _, tracks in RUNS["appearance, proposals, occlusion"]()])
    assert {Source.DETECTED, Source.PROPOSED, Source.OCCLUDED} <= set(sources.tolist())
    sources = np.concatenate([t.source for _, t in RUNS["the detector runs at one frame in three"]()])
    assert Source.PREDICTED in sources.tolist()
    moving = RUNS["a camera that moves"]()
    assert len(list(moving)) == N_FRAMES


def test_interrupted_pipeline_rests_before_held_frames():
    pipeline = RUNS["late confirmation"]()
    seen, states = [], []

    def between_frames(last):
        state = pipeline.state()
        states.append((last, len(seen), state["given_index"]))
        if len(seen) > 10 and state["held"]:
            pipeline.stop()

    for frame, _ in pipeline.frames(between_frames):
        seen.append(frame.index)
    last, n_seen, given = states[-1]
    assert last
    assert n_seen == given + 1 < len(seen)
    assert [last for last, _, _ in states].count(True) == 1


def test_changed_source_is_one_line():
    pipeline = RUNS["late confirmation"]()
    states = []
    for frame, _ in pipeline.frames(lambda last: states.append(pipeline.state())):
        if frame.index == 30:
            break
    state = next(state for state in reversed(states) if state["held"])
    again = RUNS["late confirmation"]()
    again.source.images = again.source.images[: state["held"][0]["index"]]
    again.restore(state)
    with pytest.raises(ResumeError, match=r"video: does not give frame .* again"):
        list(again)


STATE = {
    "number": 3, "share": 0.1 + 0.2, "nothing": None, "words": ["a", {"b": -1e-300}], "flag": True,
    "array": np.arange(6.0).reshape(2, 3), "deep": [{"rows": np.zeros((0, 4), np.float32)}],
    "scalar": np.float64(np.pi), "column": np.asfortranarray(np.arange(6).reshape(2, 3)),
}  # fmt: skip


def test_checkpoint_round_trip(tmp_path):
    found = went_through(tmp_path / "x", STATE)
    assert list(found) == list(STATE)
    for name in ("number", "share", "nothing", "words", "flag", "scalar"):
        assert found[name] == STATE[name]
    for a, b in ((found["array"], STATE["array"]), (found["column"], STATE["column"])):
        assert (a.dtype, a.shape, a.flags.f_contiguous) == (b.dtype, b.shape, b.flags.f_contiguous)
        assert (a == b).all()
    rows = found["deep"][0]["rows"]
    assert (rows.dtype, rows.shape) == (np.float32, (0, 4))
    found["array"][0] = 1  # for restored arrays are changed in place


def test_damaged_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "x.resume"
    checkpoint.save(path, STATE)
    data = path.read_bytes()
    for n in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:n])
        with pytest.raises(ResumeError) as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    for n in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :])
        with pytest.raises(ResumeError, match="checkpoint"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no checkpoint of track"),
        (b"1,1,2,3\n", "is no checkpoint of track"),
        (b"PK\x03\x04" + bytes(200), "is no checkpoint of track"),
        (b"tracklet-checkpoint 9 abc\n{}", "of version 9, and this program reads 6"),
        (b"tracklet-checkpoint 6 abc\n{}", "is damaged or truncated"),
    ],
)
def test_foreign_files_are_recognised(tmp_path, content, said):
    path = tmp_path / "x.resume"
    path.write_bytes(content)
    with pytest.raises(ResumeError, match=said):
        checkpoint.load(path)


def test_pickled_data_is_never_read(tmp_path):
    """A file with a right checksum around a pickle: refused, not run."""
    import hashlib
    import io

    body = io.BytesIO()
    harmful = np.array([{"a": 1}], object)
    document = np.frombuffer(json.dumps({"x": {"@array": "0"}}).encode(), np.uint8)
    np.savez(body, document=document, **{"0": harmful})
    head = f"tracklet-checkpoint 6 {hashlib.sha256(body.getvalue()).hexdigest()}\n"
    (tmp_path / "x").write_bytes(head.encode() + body.getvalue())
    with pytest.raises(ResumeError, match="allow_pickle"):
        checkpoint.load(tmp_path / "x")


def test_old_checkpoint_stays_until_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "x.resume"
    checkpoint.save(path, {"n": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="the checkpoint cannot be written: No space left"):
        checkpoint.save(path, {"n": 2})
    monkeypatch.undo()
    assert checkpoint.load(path) == {"n": 1}
    checkpoint.remove(path)
    assert list(tmp_path.iterdir()) == []
