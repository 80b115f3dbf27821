"""The ONNX detector against hand-made models with known outputs, and slow loops that decode them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tracker.detector.letterbox import letterbox
from tracker.detector.onnx import COCO_NAMES, OnnxDetector
from tracker.errors import DetectionError, ModelError
from tracker.types import Frame

H, W = 64, 96  # of the network
POINTS = [(s, x, y) for s in (8, 16, 32) for y in range(H // s) for x in range(W // s)]  # as YOLOX orders them


@pytest.fixture
def model(tmp_path):
    def save(output, names=None, input_shape=(1, 3, H, W), dtype=TensorProto.FLOAT, path="model.onnx", **more):
        """A model with the constant answer `output`; a sum over the input times 0 keeps the input in use."""
        output = np.asarray(output, np.float32)
        nodes = [
            helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["answer", "nothing"], ["output"]),
        ]
        graph = helper.make_graph(
            nodes,
            "constant",
            [helper.make_tensor_value_info("images", dtype, input_shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, output.shape)],
            [numpy_helper.from_array(output, "answer"), numpy_helper.from_array(np.zeros((), np.float32), "zero")],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        properties = more if names is None else {"names": str(names), **more}
        if properties:
            helper.set_model_props(proto, {name.replace("__", "."): text for name, text in properties.items()})
        onnx.save(proto, tmp_path / path)
        return tmp_path / path

    return save


def frame(width=192, height=128):
    return Frame(0, 0.0, np.zeros((height, width, 3), np.uint8), width, height)


def yolox_loops(raw, scale, score):
    """Decoded the slow way, in source pixels: every point, every step by hand."""
    found = []
    for (stride, x, y), row in zip(POINTS, raw, strict=True):
        cx, cy = (row[0] + x) * stride / scale, (row[1] + y) * stride / scale
        w, h = math.exp(row[2]) * stride / scale, math.exp(row[3]) * stride / scale
        if row[4] * row[5] >= score:
            found.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, row[4] * row[5]])
    return np.array(sorted(found, key=lambda r: -r[4]))


def test_decode_yolox_agrees_with_a_loop(model):
    rng = np.random.default_rng(1)
    raw = np.column_stack([rng.uniform(0.4, 0.6, (len(POINTS), 2)), rng.normal(-1.2, 0.1, (len(POINTS), 2))])
    raw = np.column_stack([raw, rng.uniform(0, 1, (len(POINTS), 81))]).astype(np.float32)
    detector = OnnxDetector(model(raw[None]), score=0.3, nms_iou=0.999, device="cpu")
    assert detector.layout == "yolox-raw"
    found, expected = detector.detect(frame()), yolox_loops(raw, scale=0.5, score=0.3)
    inside = np.clip(expected[:, :4], 0, [192, 128, 192, 128])
    np.testing.assert_allclose(found.boxes, inside, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)


def test_decode_yolox_decoded_inside_gives_the_same_boxes(model):
    rng = np.random.default_rng(2)
    raw = np.column_stack([rng.uniform(-1, 2, (len(POINTS), 2)), rng.normal(0.5, 0.4, (len(POINTS), 2))])
    raw = np.column_stack([raw, rng.uniform(0, 1, (len(POINTS), 81))]).astype(np.float32)
    inside = raw.copy()
    for (stride, x, y), row in zip(POINTS, inside, strict=True):
        row[:2] = (row[0] + x) * stride, (row[1] + y) * stride
        row[2:4] = np.exp(row[2:4]) * stride
    outside = OnnxDetector(model(raw[None], path="raw.onnx"), score=0.3, device="cpu").detect(frame())
    found = OnnxDetector(model(inside[None], path="decoded.onnx"), score=0.3, device="cpu").detect(frame())
    assert len(found) > 5
    np.testing.assert_allclose(found.boxes, outside.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.scores, outside.scores)


def spread(height=H, width=W, strides=(8, 16, 32)):
    """(N, 4) centre and size of a box at every anchor point, as a network gives them for an empty picture."""
    points = [(s * (x + 0.5), s * (y + 0.5), s, 2 * s) for s in strides
              for y in range(math.ceil(height / s)) for x in range(math.ceil(width / s))]  # fmt: skip
    return np.array(points, np.float32)


def corners(centre_size):
    centre, half = centre_size[:, :2], centre_size[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def yolo_answer(*boxes, classes=80):
    """boxes: (cx, cy, w, h, class, score) in input pixels."""
    answer = np.zeros((1, 4 + classes, len(POINTS)), np.float32)
    answer[0, :4] = spread().T
    for column, (cx, cy, w, h, number, score) in enumerate(boxes):
        answer[0, :4, column * 5] = cx, cy, w, h
        answer[0, 4 + number, column * 5] = score
    return answer


def test_decode_yolo_maps_boxes_out_of_the_letterbox(model):
    detector = OnnxDetector(model(yolo_answer((48, 32, 10, 20, 0, 0.9), (48, 32, 10, 20, 2, 0.95))), device="cpu")
    assert detector.layout == "yolo"
    # A square of 128 becomes 64 x 64 in the middle of 64 x 96: 16 columns of grey on the left.
    found = detector.detect(frame(128, 128))
    np.testing.assert_allclose(found.boxes, [[(43 - 16) * 2, 44, (53 - 16) * 2, 84]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)


def test_nms_works_within_each_class(model):
    answer = yolo_answer((48, 32, 10, 20, 0, 0.9), (48, 32, 10, 21, 0, 0.8), (48, 32, 10, 20, 2, 0.7))
    both = OnnxDetector(model(answer), classes=("person", "car"), device="cpu").detect(frame())
    np.testing.assert_array_equal(both.classes, [0, 2])
    np.testing.assert_allclose(both.scores, [0.9, 0.7], rtol=1e-6)


def test_decode_end2end_rows(model):
    answer = np.zeros((1, 30, 6))
    answer[0, :3] = [[10, 10, 20, 30, 0.8, 0], [0, 0, 9, 9, 0.9, 2], [90, 50, 120, 90, 0.5, 0]]
    found = OnnxDetector(model(answer), device="cpu").detect(frame())
    np.testing.assert_allclose(found.boxes, [[20, 20, 40, 60], [180, 100, 192, 128]], atol=1e-4)


def person_answer(*boxes):
    answer = np.column_stack([corners(spread()), np.zeros(len(POINTS))]).astype(np.float32)[None]
    answer[0, : len(boxes)] = np.reshape(boxes, (-1, 5))
    return answer


@pytest.mark.parametrize("said", [{}, {"tracklet__format": "person/1"}])
def test_person_layout_is_known_by_metadata_or_shape(model, said):
    answer = person_answer((10, 10, 20, 30, 0.8), (90, 50, 120, 90, 0.5), (0, 0, 9, 9, 0.05), (10, 11, 20, 31, 0.7))
    detector = OnnxDetector(model(answer, **said), device="cpu")
    assert detector.layout == "person"
    found = detector.detect(frame())
    np.testing.assert_allclose(found.boxes, [[20, 20, 40, 60], [180, 100, 192, 128]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.8, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(found.classes, [0, 0])


def test_person_metadata_with_another_output_is_an_error(model):
    with pytest.raises(ModelError, match=r"no known detector: .*; known are person: \(1, 126, 5\)$"):
        OnnxDetector(model(yolo_answer(), tracklet__format="person/1"), device="cpu")
    with pytest.raises(ModelError, match="metadata says 'reid/1'; expected a detector, 'person/1'"):
        OnnxDetector(model(person_answer(), tracklet__format="reid/1"), device="cpu")


def echo(path, **properties):
    """A network that answers, as rows of five, the top left pixels of the input it got, channel by channel."""
    nodes = [
        helper.make_node("Slice", ["images", "zeros", "ends", "axes"], ["corner"]),
        helper.make_node("Reshape", ["corner", "rows"], ["people"]),
    ]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, "height", "width"))],
        [helper.make_tensor_value_info("people", TensorProto.FLOAT, (1, 6, 5))],
        [
            numpy_helper.from_array(np.array([0, 0]), "zeros"),
            numpy_helper.from_array(np.array([2, 5]), "ends"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array([1, 6, 5]), "rows"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(proto, {"tracklet.format": "person/1", **properties})
    onnx.save(proto, path)
    return path


def test_person_layout_input_is_bgr_at_the_top_left(tmp_path):
    """Blue 10, green 20, red 30; nothing divided, nothing moved, and a shrunk picture is the mean of its pixels."""
    detector = OnnxDetector(echo(tmp_path / "echo.onnx"), size=96, device="cpu")
    asked = []
    infer = detector.infer
    detector.infer = lambda blob: asked.append(blob) or infer(blob)
    stripes = np.zeros((128, 192, 3), np.uint8)
    stripes[:, ::2] = (20, 40, 60)
    detector.detect(Frame(0, 0.0, stripes, 192, 128))
    np.testing.assert_array_equal(asked[0][0, :, 0, 0], [10, 20, 30])
    assert np.ptp(asked[0], axis=(2, 3)).max() == 0


def test_detect_drops_nan_rows(model):
    answer = yolo_answer((48, 32, 10, 20, 0, 0.9), (np.nan, 3, 4, 5, 0, 0.9), (20, 20, -5, 5, 0, 0.9))
    assert len(OnnxDetector(model(answer), layout="yolo", device="cpu").detect(frame())) == 1


@pytest.mark.parametrize("classes", [("person",), (0,), ("0",), "Person"])
def test_classes_by_name_or_number(model, classes):
    answer = yolo_answer((48, 32, 10, 20, 0, 0.9), (20, 20, 8, 8, 1, 0.9))
    assert len(OnnxDetector(model(answer), classes=classes, device="cpu").detect(frame())) == 1


def test_class_names_come_from_the_metadata(model):
    path = model(yolo_answer((48, 32, 10, 20, 2, 0.9), classes=3), names={0: "car", 1: "dog", 2: "pedestrian"})
    assert list(OnnxDetector(path, classes=["pedestrian"], device="cpu").detect(frame()).classes) == [2]
    with pytest.raises(ModelError, match="no class 'person'; there are: car, dog, pedestrian, or numbers 0 to 2"):
        OnnxDetector(path, device="cpu")
    with pytest.raises(ModelError, match="no class 3"):
        OnnxDetector(path, classes=[3], device="cpu")


def test_model_with_one_class_finds_people(model):
    path = model(yolo_answer((48, 32, 10, 20, 0, 0.9), classes=1), names={0: "head"})
    assert len(OnnxDetector(path, device="cpu").detect(frame())) == 1
    assert len(OnnxDetector(path, classes=["Head"], device="cpu").detect(frame())) == 1
    with pytest.raises(ModelError, match="no class 'car'; there are: head, or numbers 0"):
        OnnxDetector(path, classes=["car"], device="cpu")


@pytest.mark.parametrize(
    ("names", "classes", "found"),
    [
        ("{0: 'car', 1: 'walker'}", ["walker"], [1]),  # ultralytics
        ('{"0": "car", "1": "walker"}', ["walker"], [1]),  # JSON
        ("['car', 'walker']", ["walker", "car"], [1, 0]),
        ("('car', 'walker')", [1], [1]),
        ("nonsense", ["1"], [1]),
        ("{'car': 0}", [0], [0]),
    ],
)
def test_class_names_as_exporters_write_them(model, names, classes, found):
    path = model(yolo_answer((10, 20, 8, 8, 0, 0.7), (48, 32, 10, 20, 1, 0.9), classes=2), names=names)
    assert OnnxDetector(path, classes=classes, device="cpu").detect(frame()).classes.tolist() == found


def test_unknown_class_lists_the_possible_ones(model):
    """COCO's names for 80 classes without names in the file; numbers for another count."""
    with pytest.raises(
        ModelError, match=r"no class 'people'; there are: person, bicycle, .*, toothbrush, or numbers 0 to 79"
    ):
        OnnxDetector(model(yolo_answer()), classes=["people"], device="cpu")
    with pytest.raises(ModelError, match="no class 'person'; there are: numbers 0 to 2, for the file holds no names"):
        OnnxDetector(model(yolo_answer(classes=3)), device="cpu")
    many = dict(enumerate(f"c{number}" for number in range(120)))
    with pytest.raises(ModelError, match="c98, c99 and 20 more, or numbers 0 to 119"):
        OnnxDetector(model(yolo_answer(classes=120), names=many), device="cpu")


def test_open_input_size_follows_the_frame(model):
    path = model(yolo_answer(), input_shape=(1, 3, "height", "width"))
    detector = OnnxDetector(path, size=96, layout="yolo", device="cpu")
    assert detector._input_size(1080, 1920) == (64, 96)
    assert detector._input_size(1920, 1080) == (96, 64)


@pytest.mark.parametrize(
    ("shape", "layout", "words"),
    [
        ((1, 1000), "auto", r"outputs 'output' \(1, 1000\).*yolox: \(1, 126, 5 \+ C\).*yolo: \(1, 4 \+ C, 126\)"),
        ((2, 84, 126), "auto", r"outputs 'output' \(2, 84, 126\)"),
        ((1, 84, 126), "yolox", r"outputs 'output' \(1, 84, 126\).*known are yolox: \(1, 126, 5 \+ C\)$"),
        ((1, 126, 85), "yolo", r"known are yolo: \(1, 4 \+ C, 126\), for masks with \(1, P, h, w\)$"),
    ],
)
def test_unknown_layout_is_refused_with_both_shapes(model, shape, layout, words):
    with pytest.raises(ModelError, match=words):
        OnnxDetector(model(np.zeros(shape)), layout=layout, device="cpu")


def with_scores(boxes, *columns):
    """(1, N, 4 + k) rows of an empty picture: the boxes, then the values of each column."""
    return np.column_stack([boxes, *(np.full(len(boxes), value) for value in columns)]).astype(np.float32)[None]


def queries(n=300):
    """(N, 4) centres and sizes as shares of the input, as RT-DETR gives them for any picture."""
    return np.random.default_rng(5).uniform(0.05, 0.95, (n, 4))


def bins(n):
    return np.random.default_rng(6).normal(0, 2, (n, 32))


BOX = (48, 32, 10, 20)  # of a person, in the input: centre and size
SHARE = (0.5, 0.5, 10 / 96, 20 / 64)
P6 = (8, 16, 32, 64)
THREE = np.repeat(spread(), 3, axis=0)
# layout, output for an empty picture, and the row of a person in it
EXPORTS = [
    ("person", with_scores(corners(spread()), 1e-4), (43, 22, 53, 42, 0.9)),
    ("yolox", with_scores(spread(), 1e-4, 0.3), (*BOX, 1.0, 0.9)),
    ("yolox-raw", with_scores(spread() * 0 - 0.4, 1e-4, 0.3), (6, 4, math.log(10 / 8), math.log(20 / 8), 1.0, 0.9)),
    ("yolov5", with_scores(THREE, 1e-4, 0.3), (*BOX, 1.0, 0.9)),  # one class: six columns
    ("yolov5", with_scores(THREE, 1e-4, 0.3, 0.4), (*BOX, 0.9, 1.0, 0.0)),
    ("yolov5", with_scores(np.repeat(spread(strides=P6), 3, axis=0), 0.01, 0.3), (*BOX, 1.0, 0.9)),
    ("yolov5", with_scores(spread(), 1.0, 0.01, 0.02), (*BOX, 1.0, 0.9, 0.0)),  # YOLOv6
    ("end2end", np.zeros((1, 300, 6)), (43, 22, 53, 42, 0.9, 0)),
    ("end2end", with_scores(corners(spread())[:100], 0.01, 7), (43, 22, 53, 42, 0.9, 0)),  # YOLOv10
    ("rtdetr", with_scores(queries(), 0.01), (*SHARE, 0.9)),
    ("rtdetr", with_scores(queries(), 0.01, 0.02), (*SHARE, 0.9, 0.1)),
    ("rtdetr", with_scores(queries(), *[0.01] * 80), (*SHARE, 0.9, *[0.1] * 79)),
    ("rtdetr", with_scores(queries(), *[0.01] * 365), (*SHARE, 0.9, *[0.1] * 364)),
    ("nanodet", np.column_stack([np.full((126, 1), 0.01), bins(126)])[None], None),
    ("nanodet", np.column_stack([np.full((128, 80), 0.01), bins(128)])[None], None),
]


@pytest.mark.parametrize(("layout", "empty", "row"), EXPORTS)
def test_layout_is_told_by_shape_and_numbers_together(model, layout, empty, row):
    answer = np.array(empty, np.float32)
    if row is not None:
        answer[0, 0] = row
    # The network sees the person in every picture, also in the grey one.
    detector = OnnxDetector(model(answer), classes=[0], score=0.2, device="cpu")
    assert detector.layout == layout
    if row is not None:
        found = detector.detect(frame())  # of twice the size of the input
        np.testing.assert_allclose(found.boxes, [[86, 44, 106, 84]], atol=1e-3)
        np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert OnnxDetector(model(empty), classes=[0], layout=layout, device="cpu").layout == layout
    assert len(OnnxDetector(model(empty), classes=[0], score=0.2, device="cpu").detect(frame())) == 0


@pytest.mark.parametrize(("strides", "shift"), [((8, 16, 32), 0.5), (P6, 0.0)])
def test_decode_nanodet_agrees_with_a_loop(model, strides, shift):
    """A side is the mean of 0 .. 7 under the softmax of its bins, in strides; the input is stretched and standard."""
    points = [(s, x, y) for s in strides for y in range(math.ceil(H / s)) for x in range(math.ceil(W / s))]
    rng = np.random.default_rng(3)
    answer = np.column_stack([rng.uniform(0, 1, (len(points), 2)), rng.normal(0, 1, (len(points), 32))])
    detector = OnnxDetector(model(answer[None]), classes=[1], score=0.5, nms_iou=1.0, device="cpu")
    asked = []
    infer = detector.infer
    detector.infer = lambda blob: asked.append(blob) or infer(blob)
    found = detector.detect(frame(96, 32))
    expected = []
    for (stride, x, y), values in zip(points, answer.astype(np.float32), strict=True):
        weights = [np.exp(values[2 + 8 * side : 10 + 8 * side].astype(float)) for side in range(4)]
        left, top, right, bottom = (stride * sum(k * w for k, w in enumerate(side)) / sum(side) for side in weights)
        cx, cy = (x + shift) * stride, (y + shift) * stride
        if values[1] >= 0.5:
            expected.append([cx - left, (cy - top) / 2, cx + right, (cy + bottom) / 2, values[1]])
    expected = np.clip(sorted(expected, key=lambda row: -row[4]), 0, [96, 32, 96, 32, 1])
    expected = expected[(expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])]
    np.testing.assert_allclose(found.boxes, expected[:, :4], atol=1e-3)
    np.testing.assert_allclose(asked[0][0, :, 0, 0], [-103.53 / 57.375, -116.28 / 57.12, -123.675 / 58.395], rtol=1e-5)


def test_decode_rtdetr_stretches_the_picture(model):
    answer = with_scores(queries(), 0.01)
    answer[0, 7] = (0.5, 0.25, 0.2, 0.1, 0.9)
    found = OnnxDetector(model(answer), device="cpu").detect(frame(400, 100))
    np.testing.assert_allclose(found.boxes, [[160, 20, 240, 30]], atol=1e-3)


@pytest.mark.parametrize(
    ("answer", "names", "words"),
    [
        # class and score first; boxes as shares; logits instead of scores; poses without the metadata of poses
        (
            np.tile([1, 0.9, 3, 4, 20, 30.5], (1, 20, 1)),
            None,
            "fits end2end or rtdetr or rtdetr-top, but its numbers for",
        ),
        (
            np.tile([0.1, 0.2, 0.3, 0.4, 0.9, 1], (1, 20, 1)),
            None,
            "fits end2end or rtdetr or rtdetr-top, but its numbers",
        ),
        (with_scores(THREE, -4.0, -2.0), None, "fits yolov5 or end2end or rtdetr or rtdetr-top, but its numbers for"),
        (
            with_scores(spread(), 0.1, 33.0, 20.0).transpose(0, 2, 1),
            None,
            "fits yolo or rtdetr, but its numbers",
        ),
        # 80 classes without objectness, one row a point: as YOLOX it would be 79 classes
        (
            with_scores(spread(), *[0.01] * 80),
            dict(enumerate(COCO_NAMES)),
            "and its class names do not confirm one",
        ),
    ],
)
def test_numbers_that_fit_no_layout_are_refused_with_the_option(model, answer, names, words):
    with pytest.raises(ModelError, match=words) as caught:
        OnnxDetector(model(answer, names=names), classes=[0], device="cpu")
    assert "name it with --layout (layout= in Python): person, nanodet, yolox, yolox-raw, yolov5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_end2end_rows_are_checked_in_every_frame(model):
    answer = with_scores(queries(), 0.3, 0.4)
    with pytest.raises(ModelError, match=r"row .*, 0\.3, 0\.4 is not x1, y1, x2, y2, score and a class.*--layout"):
        OnnxDetector(model(answer), layout="end2end", device="cpu").detect(frame())


@pytest.mark.parametrize("task", ["obb", "depth"])
def test_networks_of_other_tasks_are_refused(model, task):
    with pytest.raises(ModelError, match=f"its task is {task}; expected detect, pose or segment"):
        OnnxDetector(model(yolo_answer(), task=task), device="cpu")


@pytest.mark.parametrize(
    ("side", "columns", "layout"),
    [(416, 85, "yolox"), (640, 84, "yolo"), (640, 7, "yolo"), (640, 6, "yolov5"), (416, 5, "person")],
)
def test_documented_exports_are_accepted(model, side, columns, layout):
    boxes = spread(side, side)
    if layout == "yolov5":
        boxes = np.repeat(boxes, 3, axis=0)
        assert len(boxes) == 25200
    answer = with_scores(corners(boxes) if layout == "person" else boxes, *[0.01] * (columns - 4))
    answer = answer.transpose(0, 2, 1) if layout == "yolo" else answer
    detector = OnnxDetector(model(answer, input_shape=(1, 3, side, side)), classes=[0], device="cpu")
    assert detector.layout == layout
    assert len(detector.detect(frame())) == 0


def test_documented_message_is_the_message(model):
    text = " ".join((Path(__file__).parents[2] / "docs" / "detectors.md").read_text(encoding="utf-8").split())
    with pytest.raises(ModelError) as caught:
        OnnxDetector(model(np.zeros((1, 116, 160, 160)), input_shape=(1, 3, 640, 640)), device="cpu")
    said = str(caught.value).partition(": ")[2].replace("'output'", "'output0'")
    assert said in text


@pytest.mark.parametrize(
    ("shapes", "hint"),
    [
        ([(1, 378, 85), (1, 3, 8, 12, 85), (1, 3, 4, 6, 85), (1, 3, 2, 3, 85)], r"\(maps are raw heads: export with"),
        ([(20, 8)], "known are person"),
        (
            [(1, 126, 80), (1, 126, 4)],
            r"'output' \(1, 126, 80\), 'output_1' \(1, 126, 4\) for an input of 64 x 96 pixels",
        ),
    ],
)
def test_other_exports_are_refused_in_one_line(model, tmp_path, shapes, hint):
    path = model(np.zeros(shapes[0]))
    proto = onnx.load(path)
    for number, shape in enumerate(shapes[1:], 1):
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), f"answer_{number}"))
        proto.graph.node.append(helper.make_node("Identity", [f"answer_{number}"], [f"output_{number}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"output_{number}", TensorProto.FLOAT, shape))
    onnx.save(proto, path)
    with pytest.raises(ModelError, match=hint) as caught:
        OnnxDetector(path, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(shapes[0])[1:-1] in str(caught.value)


def test_unknown_input_is_refused(model):
    with pytest.raises(
        ModelError, match=r"expected one picture \(1, 3, height, width\) or .*; found inputs 'images' float"
    ):
        OnnxDetector(model(np.zeros((1, 84, 126)), input_shape=(1, 1, H, W)), device="cpu")
    with pytest.raises(ModelError, match="unknown detector layout 'fcos'"):
        OnnxDetector(model(np.zeros((1, 84, 126))), layout="fcos", device="cpu")


def test_detect_frame_without_image_is_an_error(model):
    with pytest.raises(DetectionError, match="frame 7 has no picture"):
        OnnxDetector(model(yolo_answer()), device="cpu").detect(Frame(7, 0.0, None, 10, 10))


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (576, 768), (1920, 1080), (300, 301), (100, 2000)])
@pytest.mark.parametrize("size", [320, 416, 640])
def test_open_input_has_the_shape_of_the_frame(model, height, width, size):
    """Multiples of 32 that the picture fills: the long side as asked, less than 32 rows or columns of grey."""
    path = model(yolo_answer(), input_shape=(1, 3, "height", "width"))
    detector = OnnxDetector(path, size=size, layout="yolo", device="cpu")
    shape = detector._input_size(height, width)
    assert max(shape) == size
    assert shape[0] % 32 == shape[1] % 32 == 0
    scale = size / max(height, width)
    assert all(0 <= side - length * scale < 32 for side, length in zip(shape, (height, width), strict=True))


@pytest.mark.parametrize(
    ("metadata", "frame_size", "shape"),
    [
        ({}, (1080, 1920), (384, 640)),
        ({}, (576, 768), (480, 640)),
        ({}, (240, 320), (256, 320)),  # nothing is enlarged
        ({}, (20, 30), (32, 32)),
        ({"imgsz": "[320, 320]"}, (1080, 1920), (192, 320)),
        ({"imgsz": "1280"}, (1080, 1920), (736, 1280)),
        ({"imgsz": "1280"}, (576, 768), (576, 768)),
        ({"imgsz": "huge"}, (1080, 1920), (384, 640)),
        ({"imgsz": "[640, 'x']"}, (1080, 1920), (384, 640)),
        ({"imgsz": "[]"}, (1080, 1920), (384, 640)),
        # Half of large frames, between the two sizes of the file.
        ({"imgsz": "512", "tracklet.largest_imgsz": "1088"}, (1080, 1920), (544, 960)),
        ({"imgsz": "512", "tracklet.largest_imgsz": "1088"}, (576, 768), (384, 512)),
        ({"imgsz": "512", "tracklet.largest_imgsz": "1088"}, (3840, 2160), (1088, 640)),
        ({"imgsz": "512", "tracklet.largest_imgsz": "1088"}, (240, 320), (256, 320)),
    ],
)
def test_default_size_follows_frame_and_model(model, metadata, frame_size, shape):
    path = model(yolo_answer(), input_shape=(1, 3, "height", "width"), **metadata)
    assert OnnxDetector(path, layout="yolo", device="cpu")._input_size(*frame_size) == shape


def test_fixed_input_refuses_another_size(model):
    path = model(yolo_answer())
    assert OnnxDetector(path, device="cpu")._input_size(1080, 1920) == (H, W)
    assert OnnxDetector(path, size=96, device="cpu")._input_size(1080, 1920) == (H, W)
    with pytest.raises(ModelError, match=r"fixed at 64 x 96 \(height x width\), so it cannot run at 640; leave"):
        OnnxDetector(path, size=640, device="cpu")
    with pytest.raises(ModelError, match="fixed at any x 96"):
        OnnxDetector(model(yolo_answer(), input_shape=(1, 3, "height", W)), size=640, device="cpu")


@pytest.mark.parametrize("size", [0, 31, -416, 10**6, True, 416.0])
def test_invalid_size_is_an_error(model, size):
    with pytest.raises(ModelError, match="long side in pixels, 32 to 8192, got"):
        OnnxDetector(model(yolo_answer(), input_shape=(1, 3, "height", "width")), size=size, device="cpu")


@pytest.mark.parametrize("place", ["centre", "corner", "stretch"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (50, 131), (500, 20)])
def test_letterbox_maps_corners_back(place, size):
    """A white picture: grey outside, white inside, and the corners of white map to the corners of the source."""
    image = np.full((*size, 3), 255, np.uint8)
    blob, placed = letterbox(image, H, W, place=place)
    assert blob.shape == (1, 3, H, W)
    assert set(np.unique(blob)) <= {114.0, 255.0}
    y, x = np.nonzero(blob[0, 0] == 255)
    white = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], dtype=float)
    np.testing.assert_allclose(placed.to_source(white), [[0, 0, size[1], size[0]]], atol=1e-9)
    if place != "centre":
        assert (placed.left, placed.top) == (0, 0)
    if place == "stretch":
        assert len(x) == W * H


def test_coco_has_eighty_names():
    assert len(set(COCO_NAMES)) == 80
    assert (COCO_NAMES[0], COCO_NAMES[2], COCO_NAMES[79]) == ("person", "car", "toothbrush")
