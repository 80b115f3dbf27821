"""Layouts with several outputs or inputs, poses and masks: models built to what their exporters document."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tracker.detector.layouts.base import Picture
from tracker.detector.onnx import OnnxDetector
from tracker.errors import ModelError
from tracker.types import Frame

H, W = 64, 96  # of the network
KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}


@pytest.fixture
def model(tmp_path):
    def save(outputs, input_shape=(1, 3, H, W), dtype=TensorProto.FLOAT, sized=False, **metadata):
        """A model with constant answers, by the names of its outputs; sized: boxes times the second input."""
        outputs = {
            name: np.asarray(value, np.int64 if np.asarray(value).dtype.kind == "i" else np.float32)
            for name, value in outputs.items()
        }
        inputs = [helper.make_tensor_value_info("images", dtype, input_shape)]
        nodes, tensors = [], []
        for name, value in outputs.items():
            tensors.append(numpy_helper.from_array(value, f"answer_{name}"))
            if not (sized and name == "boxes"):
                nodes.append(helper.make_node("Identity", [f"answer_{name}"], [name]))
        if sized:
            inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ("N", 2)))
            nodes += [
                helper.make_node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
                helper.make_node("Concat", ["size", "size"], ["sizes"], axis=1),  # width, height, width, height
                helper.make_node("Mul", ["answer_boxes", "sizes"], ["boxes"]),
            ]
        ports = [helper.make_tensor_value_info(n, KINDS[v.dtype.kind], v.shape) for n, v in outputs.items()]
        graph = helper.make_graph(nodes, "constant", inputs, ports, tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        helper.set_model_props(proto, metadata)
        onnx.save(proto, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


def frame(width=192, height=128):
    return Frame(0, 0.0, np.zeros((height, width, 3), np.uint8), width, height)


def logit(p):
    return np.log(p / (1 - p))


CORNERS = [43, 22, 53, 42]  # of a person, in the input, whose pixels are half of those of the frame
SOURCE = [86, 44, 106, 84]  # the same in the frame
SHARES = [43 / W, 22 / H, 53 / W, 42 / H]
CENTRE = [48 / W, 32 / H, 10 / W, 20 / H]  # centre and size, as shares
CAR = [0.2, 0.3, 0.1, 0.1]


def logits(columns, **by_class):
    row = np.full(columns, -9.0)
    for number, p in by_class.items():
        row[int(number[1:])] = logit(p)
    return row


def two(person, car):
    return np.array([[person, car]], float)


# Layout, outputs with a person of score 0.9 and a car of 0.8, number of the class person, and how they are given.
EXPORTS = [
    ("rfdetr", {"dets": two(CENTRE, CAR), "labels": two(logits(91, c1=0.9), logits(91, c3=0.8))}, 1, {}),
    ("rfdetr", {"dets": two(CENTRE, CAR), "labels": two(logits(3, c0=0.9), logits(3, c1=0.8, c2=0.99))}, 0, {}),
    ("rfdetr", {"dets": two(CENTRE, CAR), "labels": two(logits(4, c0=0.9), logits(4, c1=0.8))}, 0, {}),
    ("detr", {"logits": two(logits(80, c0=0.9), logits(80, c2=0.8)), "pred_boxes": two(CENTRE, CAR)}, 0, {}),
    ("detr", {"pred_logits": two(logits(4, c0=0.9), logits(4, c2=0.8)), "pred_boxes": two(CENTRE, CAR)}, 0, {}),
    (
        "detr-sized",
        {"labels": np.array([[0, 2]]), "boxes": two(SHARES, [0, 0, 0.2, 0.2]), "scores": [[0.9, 0.8]]},
        0,
        {"sized": True},
    ),
    ("mmdeploy", {"dets": two([*CORNERS, 0.9], [0, 0, 20, 20, 0.8]), "labels": np.array([[0, 2]])}, 0, {}),
    ("ssd", {"bboxes": two(SHARES, [0, 0, 0.2, 0.2]), "labels": np.array([[1, 3]]), "scores": [[0.9, 0.8]]}, 0, {}),
    (
        "torchvision",
        {"7": two(CORNERS, [0, 0, 20, 20])[0], "8": np.array([1, 3]), "9": np.array([0.9, 0.8])},
        1,
        {},
    ),
    (
        "tensorflow",
        {
            "detection_boxes:0": two([SHARES[1], SHARES[0], SHARES[3], SHARES[2]], [0, 0, 0.2, 0.2]),
            "detection_classes:0": [[1.0, 3.0]],
            "detection_scores:0": [[0.9, 0.8]],
            "num_detections:0": [2.0],
        },
        1,
        {"input_shape": (1, None, None, 3), "dtype": TensorProto.UINT8},
    ),
    ("end2end", {"output": [[0, *CORNERS, 0, 0.9], [0, 0, 0, 20, 20, 2, 0.8]]}, 0, {}),  # YOLOv7
    (
        "end2end",
        {
            "num_dets": np.array([[2]]),
            "det_boxes": np.array([[CORNERS, [0, 0, 20, 20], [7, 7, 9, 9]]], float),
            "det_scores": [[0.9, 0.8, 0.9]],
            "det_classes": np.array([[0, 2, 0]]),
        },
        0,
        {},
    ),  # YOLOv6
    ("rtdetr-top", {"output": two([*CENTRE, 0.9, 0], [0.5, 0.3, 0.1, 0.2, 0.8, 2])}, 0, {}),  # ultralytics 8.4.190
]


@pytest.mark.parametrize(("layout", "outputs", "person", "how"), EXPORTS)
def test_layout_is_told_and_decoded(model, layout, outputs, person, how):
    detector = OnnxDetector(model(outputs, **how), classes=[person], size=how.get("input_shape") and 96, device="cpu")
    assert detector.layout == layout
    found = detector.detect(frame())
    np.testing.assert_allclose(found.boxes, [SOURCE], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-5)
    assert found.classes.tolist() == [person]
    assert len(pickle.loads(pickle.dumps(detector)).detect(frame())) == 1


@pytest.mark.parametrize(("layout", "outputs", "person", "how"), EXPORTS)
def test_layout_that_is_asked_for_is_used(model, layout, outputs, person, how):
    path = model(outputs, **how)
    detector = OnnxDetector(path, classes=[person], layout=layout, size=how.get("input_shape") and 96, device="cpu")
    assert len(detector.detect(frame())) == 1


def test_columns_of_rfdetr_are_category_ids_or_end_with_the_background(model):
    names = OnnxDetector(model(EXPORTS[0][1]), device="cpu").class_names
    assert (names[1], names[3], names[13], names[90], len(names)) == ("person", "car", "stop sign", "toothbrush", 80)
    with pytest.raises(ModelError, match="no class 2; there are: numbers 0 to 1"):
        OnnxDetector(model(EXPORTS[1][1]), classes=[2], device="cpu")


def test_classes_of_several_layouts_go_by_name(model):
    for _, outputs, person, how in EXPORTS:
        if len(outputs) == 2 and next(iter(outputs.values())).shape[-1] in (3, 4) and person == 0:
            continue  # as many classes as COCO has are needed for names
        detector = OnnxDetector(
            model(outputs, **how), classes=["person"], size=how.get("input_shape") and 96, device="cpu"
        )
        assert detector.class_names[person] == "person"


def test_second_input_gets_width_and_height_of_the_input(model):
    """Of a frame of another shape, which is stretched: boxes come back in its pixels."""
    detector = OnnxDetector(model(EXPORTS[5][1], sized=True), device="cpu")
    np.testing.assert_allclose(
        detector.detect(frame(400, 100)).boxes, [np.multiply(SHARES, [400, 100, 400, 100])], atol=1e-3
    )


def test_other_inputs_are_refused(model):
    path = model({"output": np.zeros((1, 30, 6))})
    proto = onnx.load(path)
    proto.graph.input.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, (1, 2)))
    onnx.save(proto, path)
    with pytest.raises(ModelError, match=r"'orig_target_sizes' beside it; found inputs .*'scale_factor' float"):
        OnnxDetector(path, device="cpu")


# --------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("words", "pixels"),
    [
        ("bgr,255", [10, 20, 30]),
        ("rgb,unit", [30 / 255, 20 / 255, 10 / 255]),
        ("signed", [30 / 127.5 - 1, 20 / 127.5 - 1, 10 / 127.5 - 1]),
        ("bgr,mean", [10 - 103.53, 20 - 116.28, 30 - 123.675]),
        ("imagenet", [(30 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (10 / 255 - 0.406) / 0.225]),
    ],
)
def test_words_behind_the_layout_change_the_picture(model, words, pixels):
    detector = OnnxDetector(model(EXPORTS[3][1]), layout=f"auto:{words}", device="cpu")
    asked = []
    infer = detector.infer
    detector.infer = lambda blob: asked.append(blob) or infer(blob)
    image = np.zeros((64, 64, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    detector.detect(Frame(0, 0.0, image, 64, 64))
    np.testing.assert_allclose(asked[0][0, :, 32, 48], pixels, rtol=1e-5, atol=1e-5)


def test_words_for_the_place_change_it_and_others_are_refused(model):
    whole = Picture("stretch", "rgb", "unit")
    assert whole.changed("corner") == Picture("corner", "rgb", "unit")
    with pytest.raises(ModelError, match=r"picture cannot be 'grey'; there are order: rgb, bgr; scale: 255, unit, .*"):
        OnnxDetector(model(EXPORTS[3][1]), layout="detr:bgr,grey", device="cpu")


# ---------------------------------------------------------------------------------------------------- poses, masks

POSE = np.array([[45, 24, 0.9], [50, 40, 0.2]])  # two keypoints in the input
POSE_SOURCE = [[90, 48, 0.9], [100, 80, 0.2]]
POINTS = [(s * (x + 0.5), s * (y + 0.5), s, 2 * s) for s in (8, 16, 32) for y in range(H // s) for x in range(W // s)]


def yolo(row):
    """(1, columns, points): the row at the first point, nothing elsewhere."""
    table = np.zeros((len(POINTS), len(row)))
    table[:, :4] = POINTS
    table[0] = row
    return table.T[None]


def end2end(row):
    return np.vstack([row, np.zeros((29, len(row)))])[None]


def share_points():
    return np.column_stack([POSE[:, :2] / [W, H], logit(POSE[:, 2]), np.ones((2, 5))])


META = {"names": "{0: 'person'}", "kpt_shape": "[2, 3]", "task": "pose"}
FLAT = [*POSE.ravel()]
POSES = [
    ("yolo", {"output": yolo([48, 32, 10, 20, 0.9, *FLAT])}, META),
    ("end2end", {"output": end2end([*CORNERS, 0.9, 0, *FLAT])}, META),
    ("rtmo", {"dets": [[[*CORNERS, 0.9], [0, 0, 9, 9, 0]]], "keypoints": [[POSE, POSE * 0]]}, {}),
    ("rfdetr", {"dets": [[CENTRE]], "labels": [[logits(91, c0=0.9)]], "keypoints": [[share_points()]]}, {}),
]


@pytest.mark.parametrize(("layout", "outputs", "metadata"), POSES)
def test_keypoints_are_those_of_the_detection_in_the_frame(model, layout, outputs, metadata):
    detector = OnnxDetector(model(outputs, **metadata), device="cpu")
    assert detector.layout == layout
    found = detector.detect(frame())
    np.testing.assert_allclose(found.boxes, [SOURCE], atol=1e-3)
    np.testing.assert_allclose(found.keypoints, [POSE_SOURCE], atol=1e-3)
    assert found.masks is None


def test_keypoints_leave_the_letterbox_with_the_boxes(model):
    """A square frame lies in the middle of the input, with 16 columns of grey on its left."""
    found = OnnxDetector(model(POSES[0][1], **META), device="cpu").detect(frame(128, 128))
    np.testing.assert_allclose(found.keypoints, [[[58, 48, 0.9], [68, 80, 0.2]]], atol=1e-3)


def test_keypoints_without_a_score_get_one(model):
    flat = POSE[:, :2].ravel()
    path = model({"output": yolo([48, 32, 10, 20, 0.9, *flat])}, **META | {"kpt_shape": "[2, 2]"})
    np.testing.assert_allclose(OnnxDetector(path, device="cpu").detect(frame()).keypoints[0, :, 2], 1)


LEFT = np.where(np.arange(24) < 12, 5.0, -5.0) * np.ones((16, 1))  # logits (16, 24) over the input: its left half
TOP = np.where(np.arange(16) < 8, 5.0, -5.0)[:, None] * np.ones(24)
INPUT_LEFT = np.where(np.arange(W) < 48, 0.99, 0.01) * np.ones((H, 1))  # probabilities over every pixel
SEGMENTS = [
    ("yolo", {"a": yolo([48, 32, 10, 20, 0.9, 1, 0]), "b": np.stack([LEFT, TOP])[None]}),
    ("end2end", {"a": end2end([*CORNERS, 0.9, 0, 1, 0]), "b": np.stack([LEFT, TOP])[None]}),
    ("rfdetr", {"dets": [[CENTRE]], "labels": [[logits(91, c1=0.9)]], "masks": [[LEFT]]}),
    ("mmdeploy", {"dets": [[[*CORNERS, 0.9]]], "labels": np.array([[0]]), "masks": [[INPUT_LEFT]]}),
]


@pytest.mark.parametrize(("layout", "outputs"), SEGMENTS)
def test_masks_are_cut_to_the_boxes_in_pixels_of_the_frame(model, layout, outputs):
    """The person's box reaches from column 86 to 106 of the frame; the left half of the frame ends at 96."""
    detector = OnnxDetector(model(outputs), device="cpu")
    assert detector.layout == layout
    (mask,) = detector.detect(frame()).masks
    assert (mask.x, mask.y, mask.bits.shape) == (86, 44, (40, 20))
    np.testing.assert_array_equal(mask.bits, np.tile(np.arange(20) < 10, (40, 1)))
    whole = mask.on(128, 192)
    np.testing.assert_array_equal(np.argwhere(whole).min(axis=0), [44, 86])
    assert whole.sum() == mask.bits.sum()


def test_masks_leave_the_letterbox_with_the_boxes(model):
    """A square frame of 128 covers the columns 16 to 80 of the input, so its left half ends at 64, pixel 64."""
    person = [48, 32, 40, 20]
    outputs = {"a": yolo([*person, 0.9, 1, 0]), "b": np.stack([LEFT, TOP])[None]}
    (mask,) = OnnxDetector(model(outputs), device="cpu").detect(frame(128, 128)).masks
    assert (mask.x, mask.bits.shape[1]) == (24, 80)
    np.testing.assert_array_equal(mask.bits.any(axis=0), np.arange(24, 104) < 64)


def test_without_a_person_there_are_no_keypoints_or_masks(model):
    found = OnnxDetector(model(POSES[1][1], **META), score=0.95, device="cpu").detect(frame())
    assert found.keypoints.shape == (0, 2, 3)
    found = OnnxDetector(model(SEGMENTS[0][1]), score=0.95, device="cpu").detect(frame())
    assert found.masks.shape == (0,)
