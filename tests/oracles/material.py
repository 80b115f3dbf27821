"""Small files for the commands of the pages: a street with people that the bundled detector finds, and its truth."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reid_training.data.synthetic import draw_person, write_market_folder
from tests.synthetic.drawn_people import small_config, write_yolo
from tests.synthetic.mot import Scene, make_scene, write_sequence
from tracker.settings import to_toml

ROOT = Path(__file__).resolve().parents[2]
SIZE = (768, 576)  # width, height: the pages draw lines and zones for the sample video
N_FRAMES, FPS = 12, 6.0
# docs/images/vtest.jpg holds two annotated frames of the sample video next to each other. People of the left one
# are painted over with the same place of the right one, or with the street beside; four of the right one walk.
_HIDDEN = (
    (66, 60, 136, 136, 0), (384, 150, 500, 282, 0), (580, 200, 746, 350, -110), (600, 85, 738, 190, 0),
    (0, 555, 170, 576, 200),
)  # fmt: skip
_PEOPLE = (
    (1352, 157, 1378, 234),
    (1083, 217, 1113, 291),
    (955, 165, 981, 233),
    (1390, 166, 1411, 232),
)  # x1, y1, x2, y2 in the picture
_START = ((150.0, 265.0), (330.0, 330.0), (620.0, 300.0), (690.0, 380.0))  # where their feet are in the first frame
_STEP = ((12.0, 0.0), (12.0, -2.0), (-8.0, 3.0), (-9.0, 1.0))  # pixels a frame


def street(n_frames: int = N_FRAMES) -> tuple[list[np.ndarray], Scene]:
    """Frames (576, 768, 3) uint8 BGR, and where the walking people are in them; the detections are the truth."""
    picture = cv2.imread(str(ROOT / "docs" / "images" / "vtest.jpg"))
    left, right = picture[:, : SIZE[0]].copy(), picture[:, SIZE[0] :]
    for x1, y1, x2, y2, aside in _HIDDEN:
        left[y1:y2, x1:x2] = right[y1:y2, x1 + aside : x2 + aside]
    sprites = [picture[y1:y2, x1:x2] for x1, y1, x2, y2 in _PEOPLE]
    frames, boxes = [], []
    for t in range(n_frames):
        frame, found = left.copy(), []
        for sprite, start, step in zip(sprites, _START, _STEP, strict=True):
            x, y = (round(a + t * b) for a, b in zip(start, step, strict=True))
            height, width = sprite.shape[:2]
            frame[y - height : y, x : x + width] = sprite
            found.append((x, y - height, x + width, y))
        frames.append(frame)
        boxes.append(np.array(found, float))
    n = len(sprites)
    ids = [np.arange(1, n + 1)] * n_frames
    seen = [np.column_stack([found, np.full(n, 0.9)]) for found in boxes]
    scene = Scene(*SIZE, FPS, boxes, ids, [np.ones(n)] * n_frames, seen, ids, np.zeros(4), 0)
    return frames, scene


def write_film(path: Path, frames: list[np.ndarray], fps: float = FPS) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def write_images(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(folder / f"{number:06d}.jpg"), frame)


def write_material(folder: Path) -> Path:
    """Everything that the pages name, under the names that they use."""
    frames, scene = street()
    write_film(folder / "video.mp4", frames)
    shutil.copy(folder / "video.mp4", folder / "vtest.avi")
    # For parts of a file, which the pages count in minutes: 140 s at two small frames a second.
    write_film(folder / "long.mp4", [frames[0][160:288, 110:206]] * 280, 2.0)
    (folder / "videos").mkdir()
    for name in ("door", "yard"):
        write_film(folder / "videos" / f"{name}.mp4", frames[:6])
    write_images(folder / "frames", frames)
    _write_sequences(folder, frames, scene)
    shutil.copy(folder / "MOT16" / "train" / "MOT16-09" / "det" / "det.txt", folder / "det.txt")

    for name in ("yolo11n.onnx", "yolov8n.onnx"):
        write_detector(folder / name, ["person", "bicycle"])
    for name in ("yolox_nano.onnx", "yolox.onnx"):
        write_detector(folder / name, None, yolox=True)
    write_detector(folder / "traffic.onnx", ["car", "pedestrian", "cyclist"], shown=1)
    write_pose_and_masks(folder / "yolo11n-pose.onnx", folder / "yolo11n-seg.onnx")
    write_market_folder(folder / "Market-1501", n_train=20)
    write_crops(folder / "crops")
    write_links(folder)
    (folder / "weights").mkdir()
    for path in (ROOT / "weights").glob("*.onnx"):
        shutil.copy(path, folder / "weights")
    shutil.copy(ROOT / "weights" / "reid_fast.onnx", folder / "my_reid.onnx")
    write_yolo(folder / "DATA" / "drawn", 12)
    (folder / "mine.toml").write_text(to_toml(small_config()), encoding="utf-8")
    return folder


def _write_sequences(folder: Path, frames: list[np.ndarray], scene: Scene) -> None:
    """The folders of MOT15, MOT16 and MOT17 that the pages name; some also stand at the top."""
    small = make_scene(3, n_people=4, n_frames=12, width=320, height=240)
    street_here = ("MOT16/train/MOT16-09", "MOT15/train/PETS09-S2L1", "MOT15/train/TUD-Campus")
    for name in street_here:
        write_sequence(scene, folder / name, images=False)
        if "PETS" not in name:  # PETS09-S2L1 has the frames of the sample video
            write_images(folder / name / "img1", frames)
    for name in ("MOT16/train/MOT16-02", "MOT16/test/MOT16-01", "ETH-Bahnhof"):
        write_sequence(small, folder / name)
    # A page fits a metric to the first 177 frames and scores it on the others.
    write_sequence(make_scene(4, n_people=4, n_frames=200, width=320, height=240), folder / "ETH-Sunnyday")
    shutil.rmtree(folder / "MOT16/test/MOT16-01/gt")
    write_sequence(scene, folder / "MOT17/train/MOT17-09", images=False)
    for name in ("DPM", "FRCNN"):
        shutil.copy(folder / "MOT17/train/MOT17-09/det/det.txt", folder / f"MOT17/train/MOT17-09/det/{name}.txt")
    shutil.copy(folder / "MOT16/train/MOT16-09/det/det.txt", folder / "MOT16/train/MOT16-09/det/yolox_nano.txt")
    for name in street_here:
        shutil.copytree(folder / name, folder / Path(name).name)


def write_crops(folder: Path, n_people: int = 8, frames: Iterator[int] | range = range(1, 100, 14)) -> None:
    """Drawn people of one video, as `track --crops` and `reid crops` leave them."""
    folder.mkdir()
    rows = []
    for person in range(1, n_people + 1):
        for frame in frames:
            look, pose = np.random.default_rng([1, person]), np.random.default_rng([2, person, frame])
            name = f"{person:04d}_{frame:06d}.jpg"
            assert cv2.imwrite(str(folder / name), draw_person(look, pose, 1.0, (128, 64))[..., ::-1])
            box = (10.0, 10.0, 74.0, 138.0)
            rows.append([name, person, "video", frame, (frame - 1) / 25, *box, 0.9, 0.8])
    with (folder / "people.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "id", "camera", "frame", "time_s", "x1", "y1", "x2", "y2", "score", "quality"])
        table.writerows(rows)


def write_pose_and_masks(pose: Path, masks: Path) -> None:
    """Networks that find one person with keypoints, or with a mask, whatever they see; NMS inside."""
    person = np.zeros((1, 300, 57), np.float32)
    person[0, 0, :6] = [180, 150, 220, 250, 0.9, 0]
    person[0, 0, 6:] = np.tile([200, 170, 0.9], 17)
    segment = person[:, :, :7].copy()
    segment[0, 0, 6] = 1
    prototypes = np.ones((1, 1, 160, 160), np.float32)
    for path, answers, more in ((pose, [person], {"kpt_shape": "[17, 3]"}), (masks, [segment, prototypes], {})):
        outputs = [(f"output{number}", answer) for number, answer in enumerate(answers)]
        graph = helper.make_graph(
            [helper.make_node("Identity", [f"answer_{name}"], [name]) for name, _ in outputs],
            "constant",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 640, 640))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, answer.shape) for name, answer in outputs],
            [numpy_helper.from_array(answer, f"answer_{name}") for name, answer in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        helper.set_model_props(model, {"names": "{0: 'person'}", **more})
        onnx.save(model, path)


def write_detector(path: Path, names: list[str] | None, *, shown: int = 0, yolox: bool = False) -> None:
    """A network of any input size that finds one person at one place, whatever it sees; layouts as exporters write.

    Boxes without a person are at other places, as those of a real network are.

    names: of its classes, into the metadata; None: COCO's 80. shown: the class of what it finds.
    """
    n_classes = 80 if names is None else len(names)
    scores = np.zeros(n_classes)
    scores[shown] = 0.9
    row = np.concatenate([[200, 200, 40, 100], [1.0] if yolox else [], scores]).astype(np.float32)
    columns = len(row)
    nodes = []
    for stride in (8, 16, 32):
        size = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"p{stride}"], kernel_shape=size, strides=size),
            helper.make_node(
                "Conv",
                [f"p{stride}", "nothing", "row" if stride == 32 else "no_person"],
                [f"c{stride}"],
                kernel_shape=[1, 1],
            ),
            helper.make_node("Reshape", [f"c{stride}", "flat"], [f"r{stride}"]),
        ]
    nodes += [
        helper.make_node("ReduceMax", ["r8"], ["some"], axes=[1]),
        helper.make_node("CumSum", ["some", "along"], ["ramp"]),
        helper.make_node("Mul", ["ramp", "centre"], ["shift"]),
        helper.make_node("Add", ["r8", "shift"], ["s8"]),
    ]
    joined = "points" if yolox else "output0"
    nodes.append(helper.make_node("Concat", ["s8", "r16", "r32"], [joined], axis=2))
    if yolox:
        nodes.append(helper.make_node("Transpose", [joined], ["output0"], perm=[0, 2, 1]))
    shape = [1, "points", columns] if yolox else [1, columns, "points"]
    graph = helper.make_graph(
        nodes,
        "one_person",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.zeros((columns, 3, 1, 1), np.float32), "nothing"),
            numpy_helper.from_array(row, "row"),
            numpy_helper.from_array(row * (np.arange(columns) < 4), "no_person"),
            numpy_helper.from_array(np.array([1, columns, -1]), "flat"),
            numpy_helper.from_array(np.array(2), "along"),
            numpy_helper.from_array((np.arange(columns) < 2).astype(np.float32).reshape(1, -1, 1), "centre"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if names is not None:
        helper.set_model_props(model, {"names": str(dict(enumerate(names))), "imgsz": "[640, 640]"})
    onnx.save(model, path)


def write_links(folder: Path) -> None:
    """Results of two videos to link, with the ways between their cameras and corrections."""
    times = '"door.csv" = 2026-11-30T08:00:00 }\nyard = { "yard.csv" = 2026-11-30T08:00:05'
    (folder / "cameras.toml").write_text(f"[cameras]\ndoor = {{ {times} }}\n", encoding="utf-8")
    (folder / "corrections.json").write_text('{"same": [], "different": []}', encoding="utf-8")
    for name in ("door", "yard"):
        box = "1,0,1,10,10,40,90,0.9,0,detected,person"
        (folder / f"{name}.csv").write_text(
            f"frame,time_s,id,x1,y1,x2,y2,score,class,source,class_name\n{box}\n", encoding="utf-8"
        )
        row = np.zeros(1, [("frame", "<i8"), ("id", "<i8"), ("embedding", "<f4", (128,))])
        row["frame"] = row["id"] = 1
        row["embedding"][0, 0] = 1.0
        np.save(folder / f"{name}.npy", row)
