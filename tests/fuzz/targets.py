"""Fuzz targets: each reader of foreign files, with files that it accepts and the words of its format."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tracker.errors import TrackletError

ALLOWED = TrackletError
LENGTH = 4096  # bytes of an input, except models, pictures and videos


@dataclass(frozen=True)
class Target:
    """One reader. run: takes an input; may raise ALLOWED. seeds: good inputs. words: of the format."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[str, ...] = ()
    length: int = LENGTH


def refusal(run: Callable[[], object]) -> Exception | None:
    """The reason for a refusal; None if the input is accepted. Raises errors that are not allowed."""
    try:
        run()
    except ALLOWED as error:
        text = str(error)
        if not text or not text.isprintable():
            raise AssertionError(f"not one line of text: {text!r}") from error
        return error
    return None


@cache
def place() -> Path:
    """A folder of this process, in memory where there is one."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def written(name: str, data: bytes) -> Path:
    """The input as a file."""
    path = place() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --------------------------------------------------------------------------------------------------- MOT text


def _detections(data: bytes) -> None:
    from tracker.detector.public import PublicDetections

    found = PublicDetections(written("det.txt", data), width=640, height=480)
    for index in (0, 1, found.last_frame):
        found.at(index)


def _results(data: bytes) -> None:
    """What `track-smooth` does with a file."""
    from tracker.eval.mot_files import read_tracks
    from tracker.offline.smoothing import refine_tracks

    tracks = read_tracks(written("tracks.txt", data))
    if len(tracks) <= 100:  # the smoother is tested elsewhere, and takes its time
        refine_tracks(tracks, np.arange(len(tracks)) / 25, fill_gaps_s=1.0)


def _truth(data: bytes) -> None:
    from tracker.eval.mot_files import read_ground_truth

    read_ground_truth(written("gt.txt", data))


def _reid_truth(data: bytes) -> None:
    from reid_training.data.mot_crops import read_truth

    read_truth(written("gt.txt", data))


def _submission(data: bytes) -> None:
    from tracker.eval.submission import submission_text

    lines = submission_text(written("results.txt", data)).splitlines()
    assert all(line.count(",") == 9 for line in lines)


def _mot_seeds() -> list[bytes]:
    return [
        b"1,-1,10,20,30,60,0.9,-1,-1,-1\n1,-1,50,20,30,60,0.4,-1,-1,-1\n2,-1,11.5,20,30,60,0.9,-1,-1,-1\n",
        b"1,1,10,20,30,60,0.9,-1,-1,-1\n2,1,11,20,30,60,0.8,-1,-1,-1\n4,2,50.25,20,30,60,1,-1,-1,-1\n",
        b"1,1,10,20,30,60,1,1,0.5\n1,2,50,20,30,60,0,12,1\n2,1,11,20,30,60,1,1,0.25\n",
        b"\xef\xbb\xbf1,1,1,1,1,1\r\n2,1,1,1,1,1\r\n",
        b"1,-1,10,20,30,60,30.5\n1,-1,50,20,30,60,-2\n",
        b"1\t1\t10\t20\t30\t60\t0.9\n2 1 11 20 0 60 0.8\n",
    ]


TOML = ("[[[[[[[[", '"""', "{a={a=", "1979-05-27", "=", "true", "0x")
_HEX = b"0x" + b"f" * 4000  # more than 4300 decimal digits, which Python does not write
NUMBERS = ("nan", "inf", "-1", "1e300", "-1e300", "1e18", "9223372036854775808", "2147483648", "0.5", "1_0", "\u0663")


# ------------------------------------------------------------------------------------------------- other tables


def _table(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        """What `track-report` does with a result."""
        from tracker.commands.report.cli import write_report

        path = written(f"table{ending}", data)
        write_report(path, out=place() / "report.html", overwrite=True)

    return run


def _counts(data: bytes) -> None:
    from tracker.commands.report.cli import read_counts

    read_counts(written("counts.csv", data))


def _people(data: bytes) -> None:
    from reid_training.data.csv_table import read, read_videos

    table = written("people.csv", data)
    for name in ("a.png", "b.png", "c.png"):
        (place() / name).touch()
    read(table)
    read_videos(table)


def _crops_table(data: bytes) -> None:
    """The table by which `track --crops --overwrite` knows which files it may remove."""
    from tracker.sinks.crops import CropSink

    folder = written("crops/people.csv", data).parent
    (place() / "mine.jpg").touch()
    CropSink(folder, overwrite=True).close()
    assert (place() / "mine.jpg").exists()


def _record(data: bytes) -> None:
    from tracker.commands.many.plan import Record, Video

    record = Record(written("track-many.json", data).parent, [])
    (place() / "a.png").touch()
    record.is_done(Video(place() / "a.png", place() / "video.txt"))


# ------------------------------------------------------------------------------------------- settings and options


def _seqinfo(data: bytes) -> None:
    from tracker.sources.mot import MotSequence

    folder = written("sequence/seqinfo.ini", data).parent
    frames = iter(MotSequence(folder))
    for _ in zip(range(3), frames, strict=False):
        pass


def _eval_seqinfo(data: bytes) -> None:
    from tracker.eval.sequences import info_of, length_of

    folder = written("sequence/seqinfo.ini", data).parent
    assert (length_of(folder) or 1) >= 1
    assert (info_of(folder, "frameRate") or 1.0) > 0


def _reid_seqinfo(data: bytes) -> None:
    from reid_training.data.mot_crops import find_sequences

    folder = written("sequence/seqinfo.ini", data).parent
    (folder / "gt").mkdir(exist_ok=True)
    (folder / "gt" / "gt.txt").touch()
    find_sequences(folder)


def _space(data: bytes) -> None:
    """What `track-tune --space` takes."""
    from tracker.config import TrackerConfig
    from tracker.eval.tune import load_space

    load_space(str(written("space.toml", data)), TrackerConfig())


def _config(data: bytes) -> None:
    from tracker.config import TrackerConfig

    config = TrackerConfig.load(written("settings.toml", data))
    assert TrackerConfig.load(written("again.toml", config.to_toml().encode())) == config


def _reid_config(data: bytes) -> None:
    from reid_training.config import read_toml
    from tracker.settings import to_toml

    config = read_toml(str(written("run.toml", data)))
    assert read_toml(str(written("again.toml", to_toml(config).encode()))) == config


def _reid_options(data: bytes) -> None:
    """A line for each --set of `reid train`."""
    from reid_training.config import RunConfig
    from tracker.settings import override, pairs, to_toml

    to_toml(override(RunConfig(), pairs(data.decode("utf-8", "replace").split("\n"))))


def _options(data: bytes) -> None:
    """A line for each option: its name, a blank, its value."""
    from tracker.analytics.regions import open_counters
    from tracker.commands.track_options import parse_options

    words = ["video.avi", "--out", "tracks.txt"]
    for line in data.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition(" ")
        if name in OPTIONS:
            words.append(f"--{name}={value}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            options = parse_options(words, _parser())
    except SystemExit:  # argparse has printed the error
        return
    open_counters(options.lines, options.zones, 640, 480, 1.0)
    assert options.span.count(1000, 25.0) >= 0
    str(options.span)
    assert options.config.to_toml()


OPTIONS = (
    "set", "line", "zone", "start", "end", "stride", "classes", "fill-gaps", "conf", "fps", "reconnect", "threads",
    "detector-size", "layout", "detect-every", "checkpoint-every",
)  # fmt: skip


@cache
def _parser() -> argparse.ArgumentParser:
    from tracker.commands.track_options import build_parser

    parser = build_parser()
    parser.usage = "track"  # formatting the real usage for every error takes longest
    return parser


def _option_seeds() -> list[bytes]:
    return [
        b"set lifecycle.lost_s=5\nset proposals.verify=appearance\nset default_fps=20\n",
        b"line gate=100,200,300,200\nzone door=0.1,0.1,0.9,0.1,0.5,0.9\nline 0,0,1,1\n",
        b"start 1:30\nend 2:00.5\nstride 0.5s\n",
        b"start 250\nend 500\nstride 3\nclasses person,2, car\n",
        b"start 12.5s\nend 1:02:03\nconf 0.3\nfill-gaps 1\nfps 25\nreconnect inf\nthreads 2\n",
    ]


# ------------------------------------------------------------------------------------------------- checkpoints


def _checkpoint(data: bytes) -> None:
    from tracker.runtime import checkpoint

    checkpoint.load(written("tracks.txt.resume", data))


def _checkpoint_body(data: bytes) -> None:
    """Damage that the checksum does not show: made by hand."""
    from tracker.commands.resume import saved_state
    from tracker.runtime import checkpoint

    head = f"tracklet-checkpoint {checkpoint.VERSION} {hashlib.sha256(data).hexdigest()}\n"
    saved_state(written("tracks.txt.resume", head.encode() + data))


@cache
def _checkpoint_seeds() -> tuple[bytes, ...]:
    from tracker.runtime import checkpoint

    path = place() / "seed.resume"
    state = {"asked": {"--fps": None}, "pipeline": {"held": [], "n": np.arange(3), "z": np.zeros((0, 4))}, "record": {},
             "outputs": {"--out t": {"bytes": 3}}, "write_s": 0.5, "run_s": 1.0,
             "started": "2026-11-30 12:00:00"}  # fmt: skip
    checkpoint.save(path, state)
    return (path.read_bytes(),)


def _body_seeds() -> list[bytes]:
    return [data.partition(b"\n")[2] for data in _checkpoint_seeds()]


def _run(data: bytes) -> None:
    """`last.pt` of `reid train`, whose pickle the input is; PyTorch checks nothing of the rest that we would read."""
    import zipfile

    from reid_training.runs import load_method

    path = place() / "last.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in _run_members().items():
            archive.writestr(name, data if name.endswith("/data.pkl") else content)
    load_method(path)


@cache
def _run_members() -> dict[str, bytes]:
    """The files inside of a checkpoint, by name."""
    import zipfile

    from reid_training.config import from_dict
    from reid_training.runs import new_method, save_checkpoint
    from tracker.settings import to_dict

    net = {"name": "osnet", "channels": [8, 8, 8, 8], "last_channels": 8, "embedding_size": 4, "blocks": 1}
    config = from_dict({"net": net, "method": {"name": "siamese"}})
    method = new_method(config, 3)
    path = place() / "seed.pt"
    state = {"n_classes": 3, "method": {}, "ema": method.state_dict(), "optimiser": {}, "history": [{"epoch": 1.0}]}
    save_checkpoint(path, {"config": to_dict(config), **state})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---------------------------------------------------------------------------------------- folders and archives


def _names(data: bytes) -> None:
    """A line for each name of a picture in a folder: how commands for a folder take it."""
    from reid_training.data.market1501 import read_folder
    from reid_training.data.mot_crops import find_sequences
    from reid_training.suggest import read_crops
    from tracker.commands.many.plan import find_videos, plan
    from tracker.sources.images import ImageFolder
    from tracker.sources.mot import MotSequence

    shutil.rmtree(place() / "S", ignore_errors=True)
    images = place() / "S" / "img1"
    (place() / "S" / "gt").mkdir(parents=True)
    images.mkdir()
    (place() / "S" / "gt" / "gt.txt").touch()
    picture = written("picture.png", _picture(".png"))
    for name in data.replace(b"\0", b"").replace(b"/", b"").split(b"\n")[:6]:
        with contextlib.suppress(OSError):  # empty, too long, there already
            os.link(picture, os.path.join(os.fsencode(images), name[:255]))
    readers: list[Callable[[], object]] = [
        lambda: read_folder(images),
        lambda: find_sequences(place() / "S"),
        lambda: read_crops(images),
        lambda: plan(find_videos([str(images)]), place() / "out", ".txt"),
        lambda: list(ImageFolder(images)),
        lambda: list(MotSequence(written("S/seqinfo.ini", _SEQINFO.replace(b".jpg", b".png")).parent)),
    ]
    refused = [error for error in map(refusal, readers) if error is not None]
    if len(refused) == len(readers):
        raise refused[0]


_SEQINFO = b"[Sequence]\nname=S\nimDir=img1\nframeRate=25\nseqLength=2\nimWidth=24\nimHeight=16\nimExt=.jpg\n"


def _archive(data: bytes) -> None:
    """Whatever the names in it: nothing comes to lie beside the folder."""
    from reid_training.data.base import unpack

    around = place() / "around"
    shutil.rmtree(around, ignore_errors=True)
    around.mkdir()
    before = sorted(os.listdir(place()))
    archive = written("data.zip", data)
    try:
        unpack(archive, around / "out")
    finally:
        assert set(os.listdir(around)) <= {"out"}
        assert set(os.listdir(place())) <= {*before, "data.zip"}


def _archive_seeds() -> list[bytes]:
    import zipfile

    seeds = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", kind) as archive:
            archive.mkdir("a")
            archive.writestr("a/b.jpg", b"picture" * 9)
            archive.writestr("c.txt", b"text")
        seeds.append(packed.getvalue())
    return seeds


def _video_end(data: bytes) -> None:
    """Whether an annotated video was finished, for each container."""
    from tracker.sinks.annotated_video import is_finished

    for ending in (".avi", ".mp4", ".mkv"):
        is_finished(written(f"video{ending}", data))


# ------------------------------------------------------------------------------- labels of the detector's training


def _coco(data: bytes) -> None:
    from tools.detector_training.labels import read_coco

    written("images/a.png", _picture(".png"))
    read_coco(place() / "images", written("coco.json", data))


def _labels(kind: str, name: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        from tools.detector_training.labels import read

        images = written(f"{kind}/images/a.png", _picture(".png")).parent
        read(kind, images, written(f"{kind}/labels/{name}", data).parent)

    return run


def _labels_mot(data: bytes) -> None:
    from tools.detector_training.labels import read_mot

    written("M/S/img1/1.jpg", _picture(".jpg"))
    written("M/S/gt/gt.txt", _mot_seeds()[2])
    read_mot(written("M/S/seqinfo.ini", data).parents[2], place())


# ------------------------------------------------------------------------------------------------------ models


def _metadata(data: bytes) -> None:
    """A line for each key: its name, a blank, its value."""
    from tracker.appearance.encoder import read_card
    from tracker.detector.onnx import class_names_in, long_side_in

    pairs = (line.partition(" ")[::2] for line in data.decode("utf-8", "replace").split("\n"))
    metadata = dict(pairs)
    long_side_in(metadata, "imgsz")
    class_names_in(metadata)
    read_card(metadata, Path("model.onnx"))


def _metadata_seeds() -> list[bytes]:
    card = {
        "tracklet.format": "reid/1", "distance": "cosine", "name": "x", "input_height": "128", "input_width": "64",
        "color_order": "RGB", "pixel_scale": "0.0039", "mean": "0.5,0.5,0.5", "std": "1,1,1",
        "embedding_size": "128", "normalized": "true", "tau_same": "0.2", "tau_diff": "0.3", "sigma_same": "0.1",
        "trained_on": "x", "licence": "MIT", "names": "{0: 'person', 1: 'car'}", "imgsz": "[480, 640]",
    }  # fmt: skip
    return ["\n".join(f"{key} {value}" for key, value in card.items()).encode(), b"names ['a', 'b']\nimgsz 640"]


def _reid_metadata(data: bytes) -> None:
    """What the training toolkit does with a model's metadata: see `_metadata`."""
    from reid_training.embedders import read_preparation

    metadata = dict(line.partition(" ")[::2] for line in data.decode("utf-8", "replace").split("\n"))
    height, width, *_ = read_preparation(metadata, Path("model.onnx"))
    assert 0 < height * width < 2**26


def _manifest(data: bytes) -> None:
    """SHA256SUMS beside the built-in models; none of them is what it names."""
    from unittest.mock import patch

    from tracker.runtime.onnx_session import open_session, packaged_model

    home = written("weights/SHA256SUMS", data).parent
    written("weights/model.onnx", _model_seeds()[0])
    with patch("tracker.runtime.onnx_session.weights_folder", lambda: home), packaged_model("model.onnx") as model:
        open_session(model, "cpu", 1)


def _model(data: bytes) -> None:
    """Native code reads it: what ends the process is a finding, too."""
    from tracker.runtime.onnx_session import open_session

    session = open_session(written("model.onnx", data), "cpu", 1)
    sizes = [[size or 2 for size in port.shape] for port in session.inputs]
    if all(np.prod(size, dtype=float) < 1e6 for size in sizes) and all(p.dtype == "float" for p in session.inputs):
        session.run(*(np.zeros(size, np.float32) for size in sizes))


@cache
def _model_seeds() -> tuple[bytes, ...]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((3, 2, 3, 3), np.float32), "w")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [out], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": "{0: 'person'}"})
    onnx.checker.check_model(model)
    return (model.SerializeToString(),)


# -------------------------------------------------------------------------------------------- pictures and videos


def _image(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        from tracker.sources.images import ImageFolder

        for frame in ImageFolder(written(f"picture{ending}", data)):
            assert frame.image is not None

    return run


def _crop(ending: str) -> Callable[[bytes], None]:
    """As the training toolkit reads it."""

    def run(data: bytes) -> None:
        from reid_training.data.base import read_image

        assert read_image(written(f"crop{ending}", data), 32, 16).shape == (32, 16, 3)

    return run


def _playlist(data: bytes) -> None:
    """Before FFmpeg sees it, which would follow it anywhere."""
    from tracker.sources.playlist import check_playlist

    check_playlist(written("videos/video.m3u8", data))


def _video(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        from tracker.sources.video import VideoFile

        with VideoFile(written(f"video{ending}", data)) as video:
            last_s = -1.0
            for n, frame in enumerate(video):
                assert frame.time_s >= last_s
                last_s = frame.time_s
                if n > 200:
                    break

    return run


@cache
def _picture(ending: str) -> bytes:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    return bytes(cv2.imencode(ending, pixels)[1].tobytes())


@cache
def _video_seed(ending: str) -> bytes:
    import cv2

    path = str(place() / f"seed{ending}")
    codec = "MJPG" if ending == ".avi" else "mp4v"
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 10.0, (32, 32))
    for grey in range(0, 250, 50):
        video.write(np.full((32, 32, 3), grey, np.uint8))
    video.release()
    return Path(path).read_bytes()


# fmt: off
TARGETS = {
    "detections": Target(_detections, _mot_seeds, NUMBERS),
    "results": Target(_results, _mot_seeds, NUMBERS),
    "truth": Target(_truth, _mot_seeds, NUMBERS),
    "reid-truth": Target(_reid_truth, _mot_seeds, NUMBERS),
    "submission": Target(_submission, _mot_seeds, NUMBERS),
    "table-csv": Target(_table(".csv"), lambda: [
        b"frame,time_s,id,x1,y1,x2,y2,score,class,source\n1,0.0,1,1.00,2.00,3.00,4.00,0.9,0,detected\n"
        b"3,0.2,1,1.00,2.00,3.00,4.00,0.9,0,proposed\n"], (*NUMBERS, "detected", "interpolated", '"', "\r")),
    "table-jsonl": Target(_table(".jsonl"), lambda: [
        b'{"frame":1,"time_s":0.0,"tracks":[{"id":1,"xyxy":[1,2,3,4],"score":0.9,"class":0,"source":"detected"}]}\n'
        b'{"frame":2,"time_s":0.04,"tracks":[]}\n'], (*NUMBERS, "NaN", "Infinity", "null", "[[[[[[[[", '{"a":')),
    "counts": Target(_counts, lambda: [
        b"time_s,frame,kind,name,id,direction,stay_s\n0.04,2,line,gate,1,in,\n1,3,zone,door,2,out,0.5\n"], ('"', "\r")),
    "people": Target(_people, lambda: [
        b"image,id,camera,frame\na.png,1,x,3\nb.png,2,x,3\nc.png,1,y,4\n",
        b"image,id,camera,split,frame\na.png,1,x,query,1\nb.png,1,y,gallery,2\nc.png,2,y,train,3\n"],
        (*NUMBERS, "../", "/etc/passwd", '"', "\r")),
    "crops-table": Target(_crops_table, lambda: [
        b"image,id,camera,frame,time_s,x1,y1,x2,y2,score,quality\n0001_000003.jpg,1,video,3,0.1,1,2,3,4,0.9,0.5\n"],
        ("../", "mine.jpg", "/", '"', "\r", "0001_000003.jpg")),
    "record": Target(_record, lambda: [
        b'{"video.txt": {"status": "done", "asked": "x", "seconds": 1.5, "attempts": 1, "error": ""}}'],
        ("../", "[[[[[[[[", "null", "1e400", "NaN")),
    "seqinfo": Target(_seqinfo, lambda: [
        b"[Sequence]\nname=SYN-01\nimDir=img1\nframeRate=25\nseqLength=40\nimWidth=160\nimHeight=120\nimExt=.jpg\n"],
        (*NUMBERS, "[DEFAULT]", "%(a)s", "../", "/etc", " ", ":", ";")),
    "eval-seqinfo": Target(_eval_seqinfo, lambda: [_SEQINFO], (*NUMBERS, "[DEFAULT]", "%(a)s", " ", ":", ";")),
    "reid-seqinfo": Target(_reid_seqinfo, lambda: [_SEQINFO], ("[DEFAULT]", "%(a)s", "../", "/etc", " ", ":", ";")),
    "config": Target(_config, lambda: [
        b"default_fps = 25.0\n[lifecycle]\nlost_s = 5\n[proposals]\nverify = 'off'\n"
        b"[association]\nmotion_weight = 0.5\nveto = true\n", b"default_fps=" + _HEX], (*NUMBERS, *TOML)),
    "space": Target(_space, lambda: [
        b'"lifecycle.lost_s" = [1.0, 3.0]\n[association]\nmotion_weight = [0.5]\nveto = [true, false]\n'],
        (*NUMBERS, *TOML)),
    "reid-config": Target(_reid_config, lambda: [
        b"seed = 3\n[data]\nheight = 128\n[augment]\nerase_area = [0.02, 0.3]\n[net]\nname = 'osnet'\n"
        b"channels = [8, 8, 8, 8]\n[schedule]\nepochs = 3\nwarmup_epochs = 1\nmilestones = [1]\ndecay = 'step'\n"
        b"[method]\nname = 'siamese'\n", b"seed=" + _HEX], (*NUMBERS, *TOML)),
    "reid-options": Target(_reid_options, lambda: [
        b"seed=3\nnet.name=osnet\nschedule.epochs=9\naugment.erase_area=[0.1,0.2]\nmethod.name='siamese'\n"[:-1]],
        (*NUMBERS, *TOML)),
    "options": Target(_options, _option_seeds, (*OPTIONS, *NUMBERS, "=", "none", "=,", "\u00b2")),
    "checkpoint": Target(_checkpoint, lambda: list(_checkpoint_seeds())),
    "checkpoint-body": Target(_checkpoint_body, _body_seeds, ("document.npy", "@array", "NUMPY", "PK", "descr")),
    "run": Target(_run, lambda: [next(data for name, data in _run_members().items() if name.endswith("/data.pkl"))],
        ("config", "n_classes", "ema", "history", "storage", "FloatStorage", "OrderedDict"), 65536),
    "names": Target(_names, lambda: [
        b"0002_c1s1_000451_03.jpg\n0002_c2.png\n-1_c3s1.png", b"000001.png\n000002.png\n2.png",
        b"a1.png\na10.png\n.b.png", b"a.mp4\na.avi\nb.mov\nb.mov.txt"],
        (".png", ".mp4", "_c", "-1", "\u0663", "\u00b2", "9" * 40, " ")),
    "archive": Target(_archive, _archive_seeds, ("../", "/etc/x", "PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "C:")),
    "video-end": Target(_video_end, lambda: [_video_seed(".avi"), _video_seed(".mp4")], ("RIFF", "moov"), 65536),
    "coco": Target(_coco, lambda: [json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "segmentation": [[1, 2, 10, 2, 10, 11]],
                         "iscrowd": 0}]}).encode()], (*NUMBERS, "null", "[]", "{}", "../", "[[[[[[[[")),
    "yolo": Target(_labels("yolo", "a.txt"), lambda: [b"0 0.5 0.5 0.2 0.3\n", b"0 0.1 0.1 0.5 0.1 0.5 0.9\n"], NUMBERS),
    "voc": Target(_labels("voc", "a.xml"), lambda: [
        b"<annotation><filename>a.png</filename><object><name>person</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
        b"<xmax>9</xmax><ymax>12</ymax></bndbox><difficult>0</difficult></object></annotation>"],
        (*NUMBERS, "../", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "<a>", "<?xml version='1.0' encoding='utf-16'?>")),
    "penn-fudan": Target(_labels("penn_fudan", "a.txt"), lambda: [
        b"Bounding box for object 1 \"PASpersonWalking\" (Xmin, Ymin) - (Xmax, Ymax) : (2, 3) - (9, 12)\n"], NUMBERS),
    "labels-mot": Target(_labels_mot, lambda: [_SEQINFO], (*NUMBERS, "[DEFAULT]", "%(a)s", "../", "/etc", "**")),
    "metadata": Target(_metadata, _metadata_seeds, (*NUMBERS, "{[]: 1}", "((((((((", "names", "imgsz", "mean", "\\n")),
    "reid-metadata": Target(
        _reid_metadata, lambda: _metadata_seeds()[:1], (*NUMBERS, "mean", "std", ",", "pixel_scale")),
    "manifest": Target(_manifest, lambda: [
        hashlib.sha256(_model_seeds()[0]).hexdigest().encode() + b"  model.onnx\n" + b"0" * 64 + b" *other.onnx\n"],
        ("model.onnx", "*", "\u2003", "\x0b")),
    "model": Target(_model, lambda: list(_model_seeds()), ("Conv", "GlobalAveragePool", "Flatten", "image"), 65536),
    "png": Target(_image(".png"), lambda: [_picture(".png")], ("IHDR", "IDAT", "IEND"), 65536),
    "jpeg": Target(_image(".jpg"), lambda: [_picture(".jpg")], (), 65536),
    "crop-png": Target(_crop(".png"), lambda: [_picture(".png")], ("IHDR", "IDAT", "IEND"), 65536),
    "crop-jpeg": Target(_crop(".jpg"), lambda: [_picture(".jpg")], (), 65536),
    "playlist": Target(_playlist, lambda: [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI=\"a.key\"\n#EXTINF:1.0,\na.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile a.mp4\nfile 'video.m3u8'\n"], ("../", "URI=", "file:", "\r", '"', "video.m3u8")),
    "avi": Target(_video(".avi"), lambda: [_video_seed(".avi")], ("RIFF", "LIST", "movi", "idx1", "avih"), 65536),
    "mp4": Target(
        _video(".mp4"), lambda: [_video_seed(".mp4")], ("moov", "mdat", "stsz", "stco", "stts", "mvhd"), 65536),
}
# fmt: on
