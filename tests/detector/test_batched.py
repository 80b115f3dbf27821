"""One network for several sources: whose frames are in a batch, and that each gets its own answer."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tracker.detector.batched import MOST_IN_BATCH, SharedDetector
from tracker.detector.letterbox import Letterbox
from tracker.detector.onnx import OnnxDetector, Prepared
from tracker.errors import DetectionError, ModelError
from tracker.types import Detections, Frame


class FakeNetwork:
    """Answers with the first pixel of each picture, and writes down who was in each batch; `gate` holds it up."""

    name, path, class_names = "fake", None, {}

    def __init__(self, batches: bool = True, provider: str = "cuda") -> None:
        self.batches, self.provider = batches, provider
        self.gate = threading.Event()
        self.runs: list[list[int]] = []
        self.error: Exception | None = None

    def takes_batches(self):
        return self.batches

    def prepare(self, frame):
        return Prepared(frame.image.astype(np.float32).transpose(2, 0, 1)[None], Letterbox(1.0, 1.0, 0, 0))

    def infer(self, pixels):
        self.runs.append([int(value) for value in pixels[:, 0, 0, 0]])
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return [{"value": picture[None]} for picture in pixels]

    def decode(self, frame, prepared, outputs):
        value = float(outputs["value"][0, 0, 0, 0])
        return Detections(np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([value / 255]), np.array([0]))


def frame(value: int, side: int = 32) -> Frame:
    return Frame(0, 0.0, np.full((side, side, 3), value, np.uint8), side, side)


class Asked(threading.Thread):
    """A thread of a source that waits for the detections of one frame."""

    def __init__(self, part, value: int, side: int = 32) -> None:
        super().__init__(daemon=True)
        self._part, self._frame = part, frame(value, side)
        self.value, self.found, self.error = value, None, None

    def run(self) -> None:
        try:
            self.found = self._part.detect(self._frame)
        except (ModelError, DetectionError) as error:
            self.error = error

    def check(self) -> None:
        self.join(20)
        assert self.found is not None
        assert self.found.scores[0] == pytest.approx(self.value / 255)


@contextmanager
def held_up(network: FakeNetwork, cores: int = 1):
    """A shared detector that is busy with a frame of value 0, and `ask`, which returns when the request waits."""
    with SharedDetector(network, cores) as shared:  # type: ignore[arg-type]
        first = Asked(shared.part(), 0)
        first.start()
        _wait(lambda: network.runs == [[0]])

        def ask(part, value: int, side: int = 32) -> Asked:
            n_waiting = len(shared._waiting)
            asked = Asked(part, value, side)
            asked.start()
            _wait(lambda: len(shared._waiting) == n_waiting + 1)
            return asked

        try:
            yield shared, ask
        finally:
            network.gate.set()


def _wait(met) -> None:
    until_s = time.monotonic() + 20
    while not met():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_waiting_frames_of_all_sources_are_one_batch():
    network = FakeNetwork()
    with held_up(network) as (shared, ask):
        all_asked = [ask(shared.part(), value) for value in (1, 2, 3)]
        network.gate.set()
        for asked in all_asked:
            asked.check()
    assert network.runs == [[0], [1, 2, 3]]


def test_a_source_has_one_frame_in_a_batch_and_other_sizes_have_their_own():
    """The greedy source, which asks three times, does not make the others wait."""
    network = FakeNetwork()
    with held_up(network) as (shared, ask):
        greedy, modest, large = shared.part(), shared.part(), shared.part()
        all_asked = [ask(greedy, 1), ask(greedy, 2), ask(greedy, 3), ask(large, 4, 64), ask(modest, 5)]
        network.gate.set()
        for asked in all_asked:
            asked.check()
    assert network.runs == [[0], [1, 5], [2], [3], [4]]


def test_network_without_batches_takes_turns():
    network = FakeNetwork(batches=False)
    with held_up(network) as (shared, ask):
        all_asked = [ask(shared.part(), value) for value in (3, 1, 2)]
        network.gate.set()
        for asked in all_asked:
            asked.check()
    assert network.runs == [[0], [3], [1], [2]]


def test_a_batch_has_a_largest_size():
    network = FakeNetwork()
    with held_up(network) as (shared, ask):
        all_asked = [ask(shared.part(), value) for value in range(1, MOST_IN_BATCH + 3)]
        network.gate.set()
        for asked in all_asked:
            asked.check()
    assert [len(run) for run in network.runs] == [1, MOST_IN_BATCH, 2]


@pytest.mark.parametrize(("cores", "sizes"), [(1, [1, 1, 1, 1]), (2, [1, 1, 1, 1]), (4, [1, 2, 1]), (64, [1, 3])])
def test_a_batch_on_the_cpu_has_a_frame_for_each_two_cores(cores, sizes):
    network = FakeNetwork(provider="cpu")
    with held_up(network, cores) as (shared, ask):
        all_asked = [ask(shared.part(), value) for value in (1, 2, 3)]
        network.gate.set()
        for asked in all_asked:
            asked.check()
    assert [len(run) for run in network.runs] == sizes


def test_a_source_without_frames_is_not_waited_for():
    network = FakeNetwork()
    network.gate.set()
    with SharedDetector(network, 1) as shared:  # type: ignore[arg-type]
        busy, _silent = shared.part(), shared.part()
        for value in (1, 2):
            assert len(busy.detect(frame(value))) == 1
    assert network.runs == [[1], [2]]


def test_an_error_reaches_those_in_the_batch_and_the_next_batch_runs():
    network = FakeNetwork()
    with held_up(network) as (shared, ask):
        a, b = ask(shared.part(), 1), ask(shared.part(), 2)
        network.error = ModelError("out of memory")
        network.gate.set()
        for asked in (a, b):
            asked.join(20)
            assert str(asked.error) == "out of memory"
        network.error = None
        assert len(shared.part().detect(frame(7))) == 1


def test_close_frees_who_waits():
    network = FakeNetwork()
    with held_up(network) as (shared, ask):
        waiting = ask(shared.part(), 1)
        shared.close()
        waiting.join(20)
        assert "closed while a frame waited" in str(waiting.error)


def echo(path: Path, batch: int | str, last_axis: int = 5) -> Path:
    """A network that answers, as rows, the top left pixels of each of its pictures; batch: 1, or a name: open."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    from onnx import TensorProto, helper, numpy_helper

    rows = [-1 if last_axis == 5 else 1, *([6, 5] if last_axis == 5 else [-1, 5])]
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["images", "zeros", "ends", "axes"], ["corner"]),
            helper.make_node("Reshape", ["corner", "rows"], ["people"]),
        ],
        "echo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, 3, "height", "width"))],
        [helper.make_tensor_value_info("people", TensorProto.FLOAT, ("n", "rows", 5))],
        [
            numpy_helper.from_array(np.array([0, 0]), "zeros"),
            numpy_helper.from_array(np.array([2, 5]), "ends"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array(rows), "rows"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"tracklet.format": "person/1"})
    onnx.save(model, path)
    return path


def test_detections_of_a_batch_are_those_of_single_frames(tmp_path, rng):
    network = OnnxDetector(echo(tmp_path / "echo.onnx", "batch"), device="cpu", size=64)
    assert network.takes_batches()
    images = rng.integers(0, 60, (4, 64, 64, 3), dtype=np.uint8)
    frames = [Frame(index, 0.0, image, 64, 64) for index, image in enumerate(images)]
    prepared = [network.prepare(each) for each in frames]
    outputs = network.infer(np.concatenate([each.pixels for each in prepared]))
    found = [network.decode(*each) for each in zip(frames, prepared, outputs, strict=True)]
    assert sum(map(len, found)) > 4
    for each, batched in zip(frames, found, strict=True):
        single = network.detect(each)
        np.testing.assert_array_equal(batched.boxes, single.boxes)
        np.testing.assert_array_equal(batched.scores, single.scores)


def test_models_for_one_picture_at_a_time_take_no_batches(tmp_path):
    """The axis of the input is fixed, or it is open and the pictures come out in one heap."""
    assert not OnnxDetector(echo(tmp_path / "fixed.onnx", 1), device="cpu", size=64).takes_batches()
    assert not OnnxDetector(echo(tmp_path / "heap.onnx", "batch", last_axis=0), device="cpu", size=64).takes_batches()
