"""`Tracker().update` and `track_video` as a user calls them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.oracles.runs import run, same
from tests.oracles.streams import lone_walker, wild_stream, with_identity_embeddings
from tracker import Source, Tracker, TrackerConfig, Tracks, track_video
from tracker.errors import ConfigError, DetectionError, ModelError, SourceError, TrackletError
from tracker.types import Detections

BOX = [10.0, 20, 50, 120]
IMAGE = np.zeros((480, 640, 3), np.uint8)


def feed(tracker: Tracker, dets, n: int = 3, **more) -> Tracks:
    for _ in range(n):
        tracks = tracker.update(dets, **more)
    return tracks


class Listed:
    """Such as supervision.Detections."""

    def __init__(self, **columns):
        self.__dict__.update(columns)


SHAPES = [
    [BOX],
    np.array([BOX]),
    np.array([BOX], np.float32),
    np.array([BOX], np.int32),
    [[*BOX, 1.0]],
    np.array([[*BOX, 1.0, 0]]),
    Listed(xyxy=np.array([BOX]), confidence=None, class_id=None),
    Listed(xyxy=np.array([BOX]), confidence=np.array([1.0]), class_id=np.array([0]), data={}),
    Listed(xyxy=np.array([BOX]), conf=np.array([1.0]), cls=np.array([0.0])),
    Detections(np.array([BOX]), np.ones(1), np.zeros(1, np.int64)),
]


@pytest.mark.parametrize("dets", SHAPES)
def test_boxes_of_every_accepted_shape(dets):
    tracker = Tracker(reid=None)
    first = tracker.update(dets)
    assert isinstance(first, Tracks)
    assert len(first) == 0
    tracks = feed(tracker, dets, 2)
    assert tracks.id.tolist() == [1]
    assert tracks.score.tolist() == [1.0]
    assert tracks.det_index.tolist() == [0]
    assert tracks.source.tolist() == [Source.DETECTED]
    np.testing.assert_allclose(tracks.xyxy, [BOX], atol=1e-6)


@pytest.mark.parametrize("nothing", [None, [], (), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 6)), Listed(xyxy=[])])
def test_empty_boxes_of_every_shape(nothing):
    tracker = Tracker(reid=None)
    for _ in range(2):
        tracks = tracker.update(nothing)
        assert isinstance(tracks, Tracks)
        assert len(tracks) == 0
    feed(tracker, [BOX], 5)
    assert len(tracker.update(nothing)) == 0
    assert tracker.update([BOX]).id.tolist() == [1]


def test_score_and_class_columns():
    tracks = feed(Tracker(reid=None), [[*BOX, 0.75, 3]])
    assert tracks.score.tolist() == [0.75]
    assert tracks.class_id.tolist() == [3]


# input, message
BAD_DETS = [
    (BOX, r"\(1, 4\)"),  # one box without the outer brackets
    (np.zeros((2, 3)), r"\(2, 3\)"),
    (np.zeros((2, 7)), r"\(2, 7\)"),
    (np.zeros((1, 1, 4)), r"\(1, 1, 4\)"),
    ([BOX, [1, 2, 3, 4, 5]], "rows of numbers"),
    ("boxes", "numbers"),
    ([[10, 20, np.nan, 120]], "detection 0"),
    ([BOX, [10, 20, np.inf, 120]], "detection 1"),
    ([[50, 20, 10, 120]], "x2 > x1"),
    ([[10, 20, 10, 120]], "x2 > x1"),
    ([[*BOX, 1.5]], "score"),
    ([[*BOX, np.nan]], "score"),
    ([[*BOX, 0.5, 0.5]], "class"),
    (Listed(xyxy=np.array([BOX]), confidence=np.ones(2)), "scores"),
    (object(), "detections"),
]
BAD_MORE = [
    ({"frame": np.zeros((480, 640), np.uint8)}, r"\(480, 640\)"),
    ({"frame": np.zeros((480, 640, 4), np.uint8)}, r"\(480, 640, 4\)"),
    ({"frame": np.zeros((480, 640, 3))}, "float64"),
    ({"frame": np.zeros((0, 640, 3), np.uint8)}, "frame"),
    ({"frame": "picture.png"}, "frame"),
    ({"embeddings": np.ones((2, 4))}, r"\(1, D\)"),
    ({"embeddings": np.ones(4)}, r"\(1, D\)"),
    ({"embeddings": [[np.nan, 1, 0, 0]]}, "NaN"),
    ({"embeddings": [["x", "y"]]}, "numbers"),
    ({"embeddings": np.ones((1, 0))}, r"\(1, D\)"),
    ({"timestamp": 0.0}, "grow"),
    ({"timestamp": -1.0}, "grow"),
    ({"timestamp": np.nan}, "grow"),
    ({"timestamp": np.inf}, "grow"),
    ({"timestamp": "soon"}, "timestamp"),
]
BAD_CALLS = [((dets, {}), said) for dets, said in BAD_DETS] + [(([BOX], more), said) for more, said in BAD_MORE]


@pytest.mark.parametrize(("call", "said"), BAD_CALLS)
def test_bad_call_is_named_and_leaves_the_tracker_unchanged(call, said):
    dets, more = call
    tracker, twin = Tracker(reid=None), Tracker(reid=None)
    stream = wild_stream(np.random.default_rng(3), n_people=4, n_frames=24)
    for t in range(len(stream)):
        if t in (0, 1, 2, 7, 12) and not (t == 0 and more.get("timestamp") in (0.0, -1.0)):  # fine as the first
            with pytest.raises(DetectionError, match=said) as caught:
                tracker.update(dets, **{"timestamp": stream.times[t], **more})
            assert "\n" not in str(caught.value)
        a, b = (each.update(stream.detections[t], timestamp=stream.times[t]) for each in (tracker, twin))
        assert same([a], [b])
        assert len(tracker.backfilled) == len(twin.backfilled)


def test_timestamps_and_the_frame_rate_mean_the_same():
    stream = lone_walker(50, hidden=range(20, 44), fps=10.0)
    by_rate, by_stamp, other = Tracker(reid=None, fps=10), Tracker(reid=None), Tracker(reid=None, fps=60)
    for t in range(50):
        a = by_rate.update(stream.detections[t])
        b = by_stamp.update(stream.detections[t], timestamp=5 + t / 10)
        c = other.update(stream.detections[t])
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)
    assert a.id.tolist() == [2]  # 2.4 s away
    assert c.id.tolist() == [1]  # 0.4 s away


def test_timestamps_may_stop_then_frame_rate_is_used():
    tracker = Tracker(reid=None, fps=10)
    tracker.update([BOX], timestamp=7.0)
    tracker.update([BOX])
    with pytest.raises(DetectionError, match=r"7\.05"):
        tracker.update([BOX], timestamp=7.05)
    tracker.update([BOX], timestamp=7.2)


def test_update_equals_the_engine():
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(4)))
    tracker = Tracker(reid=None)
    outputs = []
    for t in range(len(stream)):
        seen = stream.detections[t]
        table = np.column_stack([seen.boxes, seen.scores])
        outputs.append(tracker.update(table, embeddings=seen.features, timestamp=stream.times[t]))
    for a, b in zip(outputs, run(replace(stream, size=(0, 0))), strict=True):  # no picture, no size
        assert np.array_equal(a.xyxy, b.xyxy)
        assert np.array_equal(a.id, b.id)


def test_embeddings_of_any_length_count_by_direction():
    stream = with_identity_embeddings(lone_walker(90, hidden=range(20, 60), speed=(5.0, 0.0)))
    plain, scaled = Tracker(reid=None), Tracker(reid=None)
    for t in range(90):
        seen = stream.detections[t]
        a = plain.update(seen.boxes, embeddings=seen.features, timestamp=stream.times[t])
        b = scaled.update(seen.boxes, embeddings=17.0 * seen.features, timestamp=stream.times[t])
        assert same([a], [b])
    assert a.id.tolist() == [1]


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros((0, 0)), None])
def test_frames_without_detections_may_bring_empty_embeddings(empty):
    tracker = Tracker(reid=None)
    emb = np.array([[1.0, 0, 0, 0]])
    feed(tracker, [BOX], 5, embeddings=emb)
    for dets in ([], None, np.zeros((0, 4))):
        assert len(tracker.update(dets, embeddings=empty)) == 0
    assert tracker.update([BOX], embeddings=emb).id.tolist() == [1]


def test_network_never_runs_with_given_embeddings():
    """Not even in a frame without detections, where use C would search for a track."""
    asked = []

    def embed(image, boxes):
        asked.append(len(boxes))
        return np.ones((len(boxes), 7))

    tracker = Tracker(reid=embed)
    tracker.update([], IMAGE)
    feed(tracker, [BOX], 6, frame=IMAGE, embeddings=np.ones((1, 4)))
    for nothing in (None, []):
        assert len(tracker.update([], IMAGE, embeddings=nothing)) == 0
    assert tracker.update([BOX], IMAGE, embeddings=np.ones((1, 4))).id.tolist() == [1]
    assert asked == []


def test_embeddings_come_with_every_frame_or_with_none():
    tracker, twin = Tracker(reid=None), Tracker(reid=None)
    embeddings = np.eye(2, 4)
    two = [BOX, [300.0, 20, 350, 120]]
    for each in (tracker, twin):
        feed(each, two, 4, embeddings=embeddings)
    with pytest.raises(DetectionError, match="every frame"):
        tracker.update(two)
    with pytest.raises(DetectionError, match="size 8"):
        tracker.update(two, embeddings=np.eye(2, 8))
    assert same([tracker.update(two, embeddings=embeddings)], [twin.update(two, embeddings=embeddings)])


def test_embeddings_do_not_mix_with_those_of_the_network():
    tracker = Tracker(reid=lambda image, boxes: np.ones((len(boxes), 4)))
    feed(tracker, [BOX], 4, frame=IMAGE)
    with pytest.raises(DetectionError, match="network"):
        tracker.update([BOX], IMAGE, embeddings=np.ones((1, 4)))
    assert tracker.update([BOX], IMAGE).id.tolist() == [1]


def test_supervision_carries_embeddings_in_its_data():
    tracker = Tracker(reid=None)
    embeddings = np.array([[3.0, 4.0]])
    dets = Listed(xyxy=np.array([BOX]), confidence=None, class_id=None, data={"embedding": embeddings})
    feed(tracker, dets, 4)
    assert tracker._engine.appearance.gallery.dim == 2


def test_function_works_as_an_encoder():
    asked = []

    def embed(image, boxes):
        asked.append((image.shape, boxes.shape))
        return np.full((len(boxes), 4), 9.0)

    tracker = Tracker(reid=embed, appearance__refresh_s=0)
    assert feed(tracker, [BOX], 4, frame=IMAGE).id.tolist() == [1]
    assert asked == [((480, 640, 3), (1, 4))] * 4
    assert tracker._engine.appearance.gallery.dim == 4


@pytest.mark.parametrize("wrong", [np.ones((3, 4)), np.ones(4), [["x"]], np.full((1, 4), np.nan)])
def test_encoder_function_with_invalid_result_is_a_user_error(wrong):
    tracker = Tracker(reid=lambda image, boxes: wrong)
    with pytest.raises(DetectionError, match="embedding"):
        tracker.update([BOX], IMAGE)


def test_bundled_network_loads_with_the_first_image():
    tracker = Tracker(device="cpu")
    assert tracker.update([BOX]) is not None
    assert tracker._engine.appearance.encoder is None
    noise = np.random.default_rng(0).integers(0, 255, IMAGE.shape).astype(np.uint8)
    tracks = feed(tracker, [BOX], 3, frame=noise)
    assert tracks.id.tolist() == [1]
    assert tracker._engine.appearance.encoder is not None
    assert tracker._engine.appearance.n_crops == 3


def test_reset_begins_a_new_video():
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(6), n_frames=30))
    tracker = Tracker(reid=None)

    def play():
        return [tracker.update(d, timestamp=time_s) for d, time_s in zip(stream.detections, stream.times, strict=True)]

    first = play()
    tracker.reset()
    assert same(first, play())
    tracker.reset()
    assert feed(tracker, [BOX]).id.tolist() == [1]  # and may come without embeddings


def test_two_trackers_share_no_state():
    a, b = Tracker(reid=None), Tracker(reid=None)
    feed(a, [BOX, [300.0, 20, 350, 120]])
    assert feed(b, [BOX]).id.tolist() == [1]
    assert a.update([BOX]).id.tolist() == [1]


def test_backfilled_frames_count_updates():
    tracker = Tracker(reid=None)
    tracker.update(None)
    tracker.update([BOX])
    tracker.update([BOX])
    assert tracker.backfilled == []
    tracker.update([BOX])
    assert [(late.frame_index, late.tracks.id.tolist()) for late in tracker.backfilled] == [(1, [1]), (2, [1])]
    tracker.update([BOX])
    assert tracker.backfilled == []


def test_settings_by_keyword_and_by_config():
    config = TrackerConfig().override({"lifecycle.confirm_hits": 1})
    assert Tracker(config, reid=None).update([BOX]).id.tolist() == [1]
    assert Tracker(reid=None, lifecycle__confirm_hits=1).update([BOX]).id.tolist() == [1]
    assert Tracker(config, reid=None, proposals__max_s=0.25).config.proposals.max_s == 0.25
    for wrong in ({"lifecycle__hits": 1}, {"lifecycle": 1}, {"verbose": True}, {"fps": 0}, {"fps": "fast"}):
        with pytest.raises(ConfigError):
            Tracker(reid=None, **wrong)


class Beside:
    """A detector that sees BOX, and a person beside it."""

    def detect(self, frame):
        boxes = np.array([BOX[:4], BOX[:4]], float) + np.array([[0.0], [150.0]])
        return Detections(boxes, np.array([0.9, 0.95]), np.zeros(2, np.int64))


@pytest.mark.parametrize(("verify", "n"), [(None, 1), ("off", 1), ("appearance", 1), ("detector", 2)])
def test_verify_detector_adds_what_it_sees(monkeypatch, verify, n):
    monkeypatch.setattr("tracker.api.open_detector", lambda device: Beside())
    tracker = Tracker(reid=lambda image, boxes: np.ones((len(boxes), 2)), verify=verify)
    for _ in range(3):
        tracks = tracker.update([BOX], np.zeros((480, 640, 3), np.uint8))
    assert tracks.det_index.tolist() == list(range(n))
    given = Tracker(reid=None, verify=verify)  # the caller's embeddings: no network runs
    for _ in range(3):
        tracks = given.update([BOX], np.zeros((480, 640, 3), np.uint8), embeddings=[[1.0, 0.0]])
    assert tracks.det_index.tolist() == [0]


def test_missing_network_fails_at_once(tmp_path):
    (tmp_path / "garbage.onnx").write_bytes(b"no model at all")
    for path in (tmp_path / "none.onnx", tmp_path / "garbage.onnx"):
        with pytest.raises(ModelError, match=path.name):
            Tracker(reid=path)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_timestamps_in_other_units_are_said_once(caplog, scale):
    tracker = Tracker(reid=None)
    for t in range(8):
        tracker.update([BOX], timestamp=scale * t / 25)
    assert len(caplog.messages) == 1
    assert f"frames are {scale / 25:.4g} s apart, longer than a track is kept without a detection (2 s)" in caplog.text
    assert "if time stamps were meant as milliseconds, give seconds" in caplog.text


def test_pause_between_frames_is_no_wrong_unit(caplog):
    tracker = Tracker(reid=None)
    for time_s in (0, 0.04, 60, 120, 180, 240, 300):
        tracker.update([BOX], timestamp=time_s)
    assert caplog.messages == []


@pytest.mark.parametrize("verify", ["off", "appearance", "detector"])
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda tracker: pickle.loads(pickle.dumps(tracker))])
def test_tracker_can_be_copied_and_pickled_in_the_middle(again, verify):
    """Both go on alike, and neither changes the other."""
    image = np.random.default_rng(2).integers(0, 255, (240, 320, 3), np.uint8)
    tracker = Tracker(verify=verify, device="cpu")
    feed(tracker, [BOX], 4, frame=image)
    other = again(tracker)
    boxes = [[BOX], [], [[12, 20, 52, 120]]]
    seen = [[np.asarray(each.update(dets, image)) for dets in boxes] for each in (tracker, other)]
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_largest_coordinates_are_tracked_without_a_warning():
    with np.errstate(all="raise"):
        tracks = feed(Tracker(reid=None), [[-1e9, -1e9, 1e9, 1e9], [1e9 - 40, 0, 1e9, 90], BOX], 6)
    assert np.isfinite(tracks.xyxy).all()


def test_tensors_as_embeddings_and_images():
    torch = pytest.importorskip("torch")
    embeddings = torch.tensor([[0.6, 0.8]], dtype=torch.bfloat16, requires_grad=True)
    assert len(feed(Tracker(reid=None), torch.tensor([BOX]), embeddings=embeddings)) == 1
    with pytest.raises(DetectionError, match=r"frame must be \(H, W, 3\) uint8 BGR in NumPy, got Tensor"):
        Tracker(reid=None).update([BOX], torch.zeros(8, 8, 3, requires_grad=True))


# ------------------------------------------------------------------------------------------------ track_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A MOT sequence with pictures."""
    from tests.synthetic.mot import make_scene, write_sequence

    path = tmp_path_factory.mktemp("scene") / "SYN-01"
    write_sequence(make_scene(0, n_people=4, n_frames=20, width=320, height=240), path)
    return path


def test_track_video_gives_each_frame_once_and_whole_tracks(folder):
    frames = list(track_video(folder, detections="public", reid=None))
    assert [frame.index for frame, _ in frames] == list(range(20))
    assert len(frames[0][1]) > 0
    assert all(frame.image.shape == (240, 320, 3) for frame, _ in frames)


def test_track_video_accepts_a_user_detector(folder):
    class Fixed:
        name = "fixed"

        def detect(self, frame):
            return Detections(np.array([BOX]), np.array([0.9]), np.zeros(1, np.int64))

    ids = [tracks.id.tolist() for _, tracks in track_video(folder, detector=Fixed(), reid=None)]
    assert ids == [[1]] * 20


@pytest.mark.parametrize(
    "answer",
    [
        [BOX],
        np.array([[*BOX, 0.9]]),
        np.array([[*BOX, 0.9, 0]], np.float32),
        Listed(xyxy=np.array([BOX]), confidence=np.array([0.9]), class_id=None),
    ],
)
def test_track_video_accepts_a_function_and_arrays(folder, answer):
    def find(image):
        assert image.shape == (240, 320, 3)
        return answer

    for detector in (find, SimpleNamespace(name="mine", detect=lambda frame: answer)):
        ids = [tracks.id.tolist() for _, tracks in track_video(folder, detector=detector, reid=None)]
        assert ids == [[1]] * 20


def test_track_video_uses_the_bundled_detector(folder):
    found = []
    for words in ({}, {"detector": "person"}):
        frames = list(track_video(folder, reid=None, device="cpu", **words))
        assert [frame.index for frame, _ in frames] == list(range(20))
        found.append([tracks.xyxy.tolist() for _, tracks in frames])
    assert found[0] == found[1]


def test_track_video_can_be_left_in_the_middle(folder):
    for frame, _ in track_video(folder, detections="public", reid=None):
        if frame.index == 3:
            break


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"source": "/nowhere/video.mp4"}, SourceError),
        ({"detections": "/nowhere/det.txt"}, DetectionError),
        ({"detections": "public", "detector": "x.onnx"}, ConfigError),
        ({"detector": "/nowhere/x.onnx"}, ModelError),
        ({"reid": "/nowhere/x.onnx", "detections": "public"}, ModelError),
        ({"fps": -1, "detections": "public"}, TrackletError),
    ],
)
def test_track_video_names_what_is_wrong(folder, arguments, error):
    arguments = {"source": folder, "reid": None, **arguments}
    with pytest.raises(error) as caught:
        list(track_video(**arguments))
    assert "\n" not in str(caught.value)


def test_simple_namespaces_do_as_well():
    dets = SimpleNamespace(xyxy=np.array([BOX]), confidence=[0.9], class_id=[1])
    assert feed(Tracker(reid=None), dets).class_id.tolist() == [1]


def test_frames_farther_apart_than_a_track_is_kept_are_said_once(caplog):
    """Without appearance a track is kept for `coast_s` alone."""
    for step_s, lost_s, said in ((2.5, 10, 1), (1.5, 10, 0)):
        caplog.clear()
        tracker = Tracker(reid=None, lifecycle__lost_s=lost_s)
        for t in range(8):
            tracker.update([BOX], timestamp=step_s * t)
        assert len(caplog.messages) == said


def test_first_image_of_a_stream_takes_no_track_away():
    image = np.random.default_rng(0).integers(0, 255, (288, 384, 3), np.uint8)
    tracker = Tracker(reid=lambda image, boxes: np.ones((len(boxes), 4)))
    seen = [
        tracker.update([[100 + t, 120, 150 + t, 240, 0.9]], image if t >= 20 else None).id.tolist() for t in range(24)
    ]
    assert seen[2:] == [[1]] * 22


@pytest.mark.parametrize("names", [{"0": "person"}, {0: 1}, "person", 3])
def test_class_names_that_are_none_are_refused(names):
    with pytest.raises(ConfigError, match="class names must be a list, or a dictionary such as"):
        Tracker(reid=None, class_names=names)


def test_class_names_may_be_a_list():
    tracker = Tracker(reid=None, class_names=["person", "car", "truck"])
    for cls in (1, 1, 2, 2):
        tracks = tracker.update([[*BOX, 0.9, cls]])
    assert tracks.id.tolist() == [1]


def test_settings_that_are_no_config_are_refused():
    with pytest.raises(ConfigError, match="config must be a TrackerConfig"):
        Tracker({"lifecycle": {"lost_s": 5}})


def test_embeddings_of_a_function_keep_their_size():
    sizes = iter([4, 4, 7])
    tracker = Tracker(reid=lambda image, boxes: np.ones((len(boxes), next(sizes))))
    image = np.zeros((288, 384, 3), np.uint8)
    for _ in range(2):
        tracker.update([BOX], image)
    with pytest.raises(DetectionError, match="gave embeddings of size 7 after others of size 4"):
        tracker.update([BOX], image)
