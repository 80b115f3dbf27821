"""What a teacher's boxes do to the labels, and how they are written down."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reid_training.errors import DataError, ModelError
from tools.detector_training.config import SourceConfig, TeacherConfig
from tools.detector_training.labels import Picture
from tools.detector_training.teacher import COLUMNS, Teacher, label, read_opinions, taught

ROOT = Path(__file__).resolve().parents[3]
SCORES = TeacherConfig(person_score=0.5, ignore_score=0.2, full_score=0.8)
LABELLED = [0.0, 0, 20, 40]
# Box, score: the labelled person again; a person, certain, likely; perhaps one; hardly one.
BOXES = np.array(
    [[1, 0, 20, 40, 0.9], [40, 0, 60, 40, 0.9], [70, 0, 90, 40, 0.6], [40, 50, 60, 90, 0.3], [70, 50, 90, 90, 0.1]]
)


def merged(tmp_path, *, complete, boxes=BOXES):
    source = SourceConfig(format="yolo", images="", complete=complete)
    picture = Picture(tmp_path / "a" / "b.jpg", np.array([LABELLED]), outlines=(np.zeros((3, 2)),))
    (one,) = taught([picture], source, {"a/b.jpg": boxes}, tmp_path, SCORES)
    return one


def test_where_all_are_labelled_confident_boxes_are_ignored(tmp_path):
    one = merged(tmp_path, complete=True)
    assert one.boxes.tolist() == [LABELLED]
    assert one.ignored.tolist() == BOXES[1:3, :4].tolist()


def test_where_labels_are_missing_confident_boxes_are_people(tmp_path):
    one = merged(tmp_path, complete=False)
    assert one.boxes.tolist() == [LABELLED, *BOXES[1:3, :4].tolist()]
    assert one.weights.tolist() == pytest.approx([1.0, 1.0, 0.75])
    assert one.ignored.tolist() == [BOXES[3, :4].tolist()]
    assert one.taught
    assert len(one.outlines) == 3


def test_a_picture_that_the_teacher_has_not_seen_stays(tmp_path):
    picture = Picture(tmp_path / "c.jpg", np.array([LABELLED]))
    assert taught([picture], SourceConfig(format="yolo", images=""), {}, tmp_path, SCORES) == [picture]
    assert merged(tmp_path, complete=False, boxes=np.zeros((0, 5))).taught


def fake_teacher(path):
    """Looks at nothing and always finds a person at (8, 4) to (24, 44) of its input and something else."""
    dets = np.array([[[8, 4, 24, 44, 0.75], [0, 0, 9, 9, 0.75], [0, 0, 9, 9, 0.01]]], np.float32)
    constants = [numpy_helper.from_array(dets, "d"), numpy_helper.from_array(np.array([[0, 1, 0]]), "l")]
    # Something has to be done with the picture: 0 times its sum.
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["d", "nothing"], ["dets"]),
        helper.make_node("Identity", ["l"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, 3, 5]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 3]),
        ],
        [*constants, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_boxes_are_written_in_pixels_of_the_picture_and_read_again(tmp_path):
    for name in ("people", "none"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "x.png"), np.zeros((100, 200, 3), np.uint8))
    sources = {
        "people": SourceConfig(format="unlabelled", images="people", complete=False),
        "none": SourceConfig(format="no_people", images="none"),
    }
    teacher = Teacher(fake_teacher(tmp_path / "t.onnx"), [100])
    out = tmp_path / "teacher.csv"
    assert label(teacher, sources, tmp_path, out) == 1
    assert out.read_text().splitlines()[0] == ",".join(COLUMNS)
    found = read_opinions(out)
    assert list(found) == ["people/x.png"]
    np.testing.assert_allclose(found["people/x.png"], [[16, 8, 48, 88, 0.75]])


def test_two_sizes_give_one_box_each(tmp_path):
    rows = Teacher(fake_teacher(tmp_path / "t.onnx"), [200, 100])(np.zeros((100, 200, 3), np.uint8))
    assert sorted(map(tuple, rows[:, :2].tolist())) == [(8, 4), (16, 8)]
    assert len(Teacher(fake_teacher(tmp_path / "t.onnx"), [200, 200])(np.zeros((100, 200, 3), np.uint8))) == 1


def test_files_that_are_no_such_table_are_named(tmp_path):
    path = tmp_path / "t.csv"
    for text in ("a,b\n1,2\n", ",".join(COLUMNS) + "\nx,1,2\n", ",".join(COLUMNS) + "\nx,1,2,y,4,5\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"t\.csv"):
            read_opinions(path)
    with pytest.raises(ModelError, match="dets and labels"):
        Teacher(ROOT / "weights" / "person.onnx", [64])
