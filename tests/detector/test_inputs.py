"""Detections in any accepted form become the same rows in the same order, or an error that names the row."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.detector.inputs import as_detections
from tracker.errors import DetectionError
from tracker.types import Detections

BOX = [10.0, 20.0, 30.0, 60.0]


@pytest.mark.parametrize("nothing", [None, [], (), np.zeros(0), *(np.zeros((0, k)) for k in (4, 5, 6))])
def test_no_detections_are_empty_arrays_of_full_rank(nothing):
    dets = as_detections(nothing)
    assert (dets.boxes.shape, dets.scores.shape, dets.classes.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("columns", [4, 5, 6])
def test_as_detections_accepts_any_number_type(dtype, columns):
    table = np.array([[10, 20, 30, 60, 1, 7], [0, 0, 5, 9, 0, 2]])[:, :columns]
    dets = as_detections(table.astype(dtype))
    np.testing.assert_array_equal(dets.boxes, table[:, :4])
    np.testing.assert_array_equal(dets.scores, table[:, 4] if columns > 4 else [1, 1])
    np.testing.assert_array_equal(dets.classes, table[:, 5] if columns > 5 else [0, 0])
    assert (dets.boxes.dtype, dets.scores.dtype, dets.classes.dtype) == (np.float64, np.float64, np.int64)
    np.testing.assert_array_equal(as_detections(table.tolist()).boxes, dets.boxes)


def test_as_detections_copies_its_input():
    table = np.array([BOX])
    dets = as_detections(table)
    table[:] = -1
    np.testing.assert_array_equal(dets.boxes, [BOX])


class Tensor:
    """The relevant part of a torch tensor on a GPU: no array until .cpu().numpy()."""

    def __init__(self, values, where="cuda"):
        self.values, self.where = values, where

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda device type tensor to numpy")

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.values, "cpu")

    def numpy(self):
        assert self.where == "cpu"
        return np.array(self.values)


@pytest.mark.parametrize("wrap", [np.array, Tensor])
@pytest.mark.parametrize("names", [("confidence", "class_id"), ("conf", "cls")])
def test_as_detections_accepts_objects_with_xyxy(wrap, names):
    columns = {names[0]: wrap([0.5]), names[1]: wrap([3.0])}
    dets = as_detections(SimpleNamespace(xyxy=wrap([BOX]), data=wrap([[*BOX, 0.5, 3.0]]), **columns))
    np.testing.assert_array_equal(dets.boxes, [BOX])
    np.testing.assert_array_equal(dets.scores, [0.5])
    np.testing.assert_array_equal(dets.classes, [3])
    assert dets.features is None


def test_as_detections_optional_columns_of_objects():
    data = {"embedding": np.array([[3.0, 4.0]])}
    dets = as_detections(SimpleNamespace(xyxy=np.array([BOX]), confidence=None, class_id=None, data=data))
    np.testing.assert_array_equal(dets.scores, [1.0])
    np.testing.assert_array_equal(dets.classes, [0])
    np.testing.assert_allclose(dets.features, [[0.6, 0.8]], rtol=1e-6)
    assert dets.features.dtype == np.float32


def test_as_detections_checks_our_own_type():
    dets = Detections(np.array([BOX]), np.array([0.25]), np.array([2]))
    np.testing.assert_array_equal(as_detections(dets).scores, [0.25])
    with pytest.raises(DetectionError, match="detection 0"):
        as_detections(Detections(np.array([BOX]), np.array([np.nan]), np.array([2])))


@pytest.mark.parametrize(
    ("dets", "words"),
    [
        (BOX, r"shape \(4,\).*one box has shape \(1, 4\)"),
        (np.zeros((2, 3)), r"shape \(2, 3\).*\(N, 4\)"),
        (np.zeros((2, 7)), r"shape \(2, 7\)"),
        (np.zeros((2, 4, 1)), r"shape \(2, 4, 1\)"),
        (5.0, r"shape \(\)"),
        ([BOX, [1, 2, 3]], "rows of numbers of one length, got list"),
        ("boxes", "rows of numbers"),
        ([[*BOX, "high"]], "rows of numbers"),
        ([BOX, [1, np.nan, 3, 4]], r"detection 1 has the box \(1, nan, 3, 4\).*finite"),
        ([[1, 2, np.inf, 4]], r"detection 0 has the box \(1, 2, inf, 4\)"),
        ([BOX, BOX, [30, 20, 10, 60]], r"detection 2 has the box \(30, 20, 10, 60\); expected x2 > x1"),
        ([[5, 5, 5, 9]], r"detection 0 has the box \(5, 5, 5, 9\)"),
        ([[*BOX, 1.5]], r"detection 0 has the score 1\.5; expected 0 to 1"),
        ([[*BOX, -0.1]], r"score -0\.1"),
        ([[*BOX, np.nan]], "score nan"),
        ([[*BOX, 0.5, 1.5]], r"class 1\.5"),
        ([[*BOX, 0.5, np.nan]], "class nan"),
        (SimpleNamespace(xyxy=np.zeros((2, 5))), r"boxes have shape \(2, 5\)"),
        (SimpleNamespace(xyxy=[BOX], conf=[0.1, 0.2]), r"scores have shape \(2,\); expected \(1,\)"),
        (SimpleNamespace(xyxy=[BOX], class_id=[[1]]), r"classes have shape \(1, 1\)"),
        (SimpleNamespace(xyxy=[BOX], data={"embedding": np.ones((2, 8))}), r"embeddings have shape \(2, 8\)"),
        (SimpleNamespace(xyxy=[BOX], data={"embedding": np.zeros((1, 8))}), "embedding of detection 0 has length 0"),
    ],
)
def test_as_detections_mistake_is_named(dets, words):
    with pytest.raises(DetectionError, match=words) as caught:
        as_detections(dets)
    assert "\n" not in str(caught.value)


@settings(deadline=None)  # a busy machine may stand still for longer than the 0.2 s of the default
@given(st.lists(st.lists(st.floats(width=32), min_size=6, max_size=6), min_size=1, max_size=4))
def test_as_detections_keeps_rows_or_names_the_first_bad_one(rows):
    bad_box = [not (np.abs(r[:4]).max() <= 1e9 and r[2] > r[0] and r[3] > r[1]) for r in rows]
    bad_score = [not -1e-3 <= r[4] <= 1 + 1e-3 for r in rows]
    bad_class = [not (abs(r[5]) < 2**31 and r[5] == np.floor(r[5])) for r in rows]
    for bad in (bad_score, bad_class, bad_box):
        if any(bad):
            with pytest.raises(DetectionError, match=f"detection {bad.index(True)} "):
                as_detections(rows)
            return
    np.testing.assert_array_equal(as_detections(rows).boxes, np.array(rows)[:, :4])


# ------------------------------------------------------------------------------- tensors, results and tables

TABLE = [[10.0, 20, 30, 60, 0.5, 7], [0, 0, 5, 9, 0.25, 2]]


def same_as_table(dets):
    found, expected = as_detections(dets), as_detections(TABLE)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.classes, expected.classes)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.bfloat16(), lambda t: t.half(), lambda t: t.requires_grad_(), lambda t: t.to_sparse(),
        lambda t: t.bfloat16().requires_grad_(), list, tuple,
        lambda t: list(t.requires_grad_()),
    ],
)  # fmt: skip
def test_tensors_of_any_kind_are_converted(change):
    torch = pytest.importorskip("torch")
    same_as_table(change(torch.tensor(TABLE)))
    boxes, scores, classes = torch.tensor(TABLE).split([4, 1, 1], dim=1)
    same_as_table(SimpleNamespace(xyxy=change(boxes), conf=change(scores[:, 0]), cls=change(classes[:, 0])))


def test_results_of_ultralytics_are_taken_by_their_boxes():
    boxes = SimpleNamespace(xyxy=np.array(TABLE)[:, :4], conf=np.array([0.5, 0.25]), cls=np.array([7, 2]))
    same_as_table(SimpleNamespace(boxes=boxes, masks=None))
    same_as_table([SimpleNamespace(boxes=boxes)])  # as model(image) gives it
    with pytest.raises(DetectionError, match="got the results of 2 frames; give those of one frame"):
        as_detections([SimpleNamespace(boxes=boxes)] * 2)
    with pytest.raises(DetectionError, match="without boxes: its model does not detect"):
        as_detections(SimpleNamespace(boxes=None, obb=1))


def test_dictionary_of_torchvision_is_taken():
    table = np.array(TABLE)
    same_as_table({"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5]})
    with pytest.raises(DetectionError, match="got dict"):
        as_detections({"bbox": table[:, :4]})


@pytest.mark.parametrize(
    "names",
    [
        ("x1", "y1", "x2", "y2", "score", "class"),
        ("xmin", "ymin", "xmax", "ymax", "confidence", "class"),
        ("X1", "Y1", "X2", "Y2", "conf", "cls"),
    ],
)
def test_data_frame_is_read_by_its_names(names):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE, columns=names, index=[5, 3])
    frame["name"] = ["person", "cat"]
    same_as_table(frame[["name", *reversed(names)]])
    with pytest.raises(DetectionError, match=r"needs the columns x1, y1, x2, y2 .* it has: left, top, width, height"):
        as_detections(pandas.DataFrame([BOX], columns=["left", "top", "width", "height"]))
    with pytest.raises(DetectionError, match="boxes must be rows of numbers of one length, got Series"):
        as_detections(pandas.DataFrame([["a", 1, 2, 3]], columns=names[:4]))


@pytest.mark.parametrize("value", [1e100, -1e100, 2e9])
def test_impossible_coordinates_are_named(value):
    box = [*BOX[:2], value, BOX[3]] if value > 0 else [value, *BOX[1:]]
    with pytest.raises(DetectionError, match=r"detection 1 has the box .*; expected pixels, 1e\+09 at most"):
        as_detections([BOX, box])
