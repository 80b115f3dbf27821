"""`build`: names become the right source, detector, encoder and engine."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.oracles.runs import same
from tests.synthetic.mot import make_scene, write_sequence
from tracker.build import open_pipeline
from tracker.config import TrackerConfig
from tracker.detector.base import DetectorBase, with_defaults
from tracker.detector.onnx import OnnxDetector
from tracker.detector.verified import VerifiedDetections
from tracker.errors import ConfigError
from tracker.runtime import onnx_session
from tracker.sources.span import Span
from tracker.types import Detections

# cores, what --threads says -> threads of the encoder; frames that the detector searches at once, threads for each
CORES = [
    (1, None, 1, 0, None), (2, None, 1, 2, 1), (4, None, 2, 4, 1), (16, None, 8, 4, 4),
    (4, 1, 1, 0, 1), (4, 2, 1, 2, 1), (2, 9, 4, 4, 2),
]  # fmt: skip


@pytest.mark.parametrize(("cores", "threads", "encoder", "n_at_once", "each"), CORES)
def test_every_network_gets_its_threads(tmp_path, monkeypatch, cores, threads, encoder, n_at_once, each):
    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), tmp_path / "one")
    asked = []

    def opened(path, device="auto", threads=None):
        asked.append(threads)
        return onnx_session.open_session(path, device, threads)

    class Detector(DetectorBase):
        name = "detector"

        def __init__(self, path, *, threads, n_at_once, **_):
            asked.append((n_at_once, threads))

        def detect(self, frame): ...

    monkeypatch.setattr("tracker.build.n_cores", lambda: cores)
    monkeypatch.setattr("tracker.appearance.encoder.open_session", opened)
    monkeypatch.setattr("tracker.detector.onnx.OnnxDetector", Detector)
    open_pipeline(tmp_path / "one", detector="some.onnx", device="cpu", threads=threads).close()
    assert asked == [(n_at_once, each), encoder]


class Mine:
    """A user's detector; one with `second_look` may be asked about windows."""

    name = "mine"

    def __init__(self, **more):
        vars(self).update(more)

    def detect(self, frame):
        return Detections.empty()


def test_second_look_comes_from_the_detector(tmp_path, monkeypatch):
    """Networks have a second look, the bundled one too; a file of detections has none."""
    folder = tmp_path / "one"
    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), folder)

    def asked(**words):
        pipeline = open_pipeline(folder, device="cpu", **words)
        pipeline.close()
        return pipeline._engine.proposer.detector

    other = Mine(name="other")
    assert asked(detector=Mine(second_look=other)).name == "other"
    assert asked(detector=Mine()) is None
    with pytest.raises(ConfigError, match="size of 416 is for a network; an object chooses its own"):
        asked(detector=Mine(), detector_size=416)
    with pytest.raises(ConfigError, match="layout yolo is for a network; an object chooses its own"):
        asked(detector=Mine(), layout="yolo")
    assert asked(detections="public", reid=None) is None
    monkeypatch.setattr(
        "tracker.detector.onnx.OnnxDetector.__init__", lambda self, *_, **__: setattr(self, "second_look", self)
    )
    for words in ({}, {"detector": "person"}, {"detector": "some.onnx"}):
        assert isinstance(asked(**words), OnnxDetector)


# Words of `open_pipeline` besides detections="public"; what verifies, and whether the detector sees whole frames.
VERIFIED = [
    ({}, None, "detector", True),
    ({}, "detector", "detector", True),
    ({}, "appearance", "appearance", False),
    ({}, "off", "off", False),
    ({"reid": None}, None, "off", False),
    ({"reid": None}, "detector", "off", False),
]


@pytest.mark.parametrize(("words", "verify", "used", "whole"), VERIFIED)
def test_detector_verifies_boxes_of_a_file_where_it_may(tmp_path, monkeypatch, words, verify, used, whole):
    folder = tmp_path / "one"
    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), folder)
    monkeypatch.setattr("tracker.build.open_detector", lambda **_: with_defaults(Mine()))
    config = TrackerConfig() if verify is None else TrackerConfig().override({"proposals.verify": verify})
    with closing(open_pipeline(folder, detections="public", device="cpu", config=config, **words)) as pipeline:
        assert pipeline.verify == used
        assert isinstance(pipeline._detector, VerifiedDetections) == whole
        assert f"verify {used}" in pipeline.description


def test_file_and_detector_together_only_where_the_detector_verifies(tmp_path):
    folder, mine = tmp_path / "one", Mine()
    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), folder)
    with closing(open_pipeline(folder, detections="public", detector=mine, device="cpu")) as pipeline:
        assert pipeline._engine.proposer.detector.name == "mine"
    appearance = TrackerConfig().override({"proposals.verify": "appearance"})
    for words in ({"config": appearance}, {"reid": None}):
        with pytest.raises(ConfigError, match="either detections to replay or a detector"):
            open_pipeline(folder, detections="public", detector=mine, device="cpu", **words)


@pytest.mark.slow
@pytest.mark.data
def test_tracks_do_not_depend_on_threads(data_root):
    """Decoding, searching and embedding in parallel give the bits of one thread."""
    video = data_root / "videos" / "vtest.avi"

    def tracked(threads):
        with closing(open_pipeline(video, device="cpu", threads=threads, span=Span(end_index=40))) as pipeline:
            assert ("detect" in pipeline.beside_s) == (threads > 1)
            return [tracks for _, tracks in pipeline]

    alone = tracked(1)
    assert sum(map(len, alone)) > 100
    for threads in (2, 3):
        assert same(tracked(threads), alone)
