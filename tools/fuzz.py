"""Every reader of what others wrote, under fuzzing: whatever comes in, it answers, or refuses in one line.

    python tools/fuzz.py                                  # the targets
    python tools/fuzz.py seqinfo --runs 200000            # one of them, guided by coverage (extra: fuzz)
    python tools/fuzz.py all --runs 20000

A target takes bytes. Only TrackletError and ReidError may come out of it, with one line of text, within CASE_S seconds
and RSS_MB megabytes; anything else is a finding, and its input stays as crash-* or timeout-* in the folder given by
--findings. Each target starts from files that this program's own writers made, or that its formats describe, and
from the words of its format. tests/faults/test_fuzz.py runs the same targets under hypothesis.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from reid_training.errors import ReidError
from tracker.errors import TrackletError

CASE_S = 10
RSS_MB = 2048
LENGTH = 4096  # bytes of an input, except of models, pictures and films
ALLOWED = (TrackletError, ReidError)


@dataclass(frozen=True)
class Target:
    """One reader. run: takes an input; may raise ALLOWED. seeds: good inputs. words: of the format."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[str, ...] = ()
    length: int = LENGTH


def check(target: Target, data: bytes) -> bool:
    """Run one case; True if the input was taken, False if it was refused. Raises what must not come out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning on stderr is a line too many
            target.run(data)
    except ALLOWED as error:
        text = str(error)
        if not text or not text.isprintable():
            raise AssertionError(f"not one line of text: {text!r}") from error
        return False
    return True


@cache
def place() -> Path:
    """A folder of this process, in memory where there is one."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz", dir=memory if memory.is_dir() else None))


def written(name: str, data: bytes) -> Path:
    """The input as a file."""
    path = place() / name
    path.parent.mkdir(exist_ok=True)
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
    from tracker.offline import refine_tracks

    tracks = read_tracks(written("tracks.txt", data))
    if len(tracks) <= 100:  # the smoother is tested elsewhere, and takes its time
        refine_tracks(tracks, np.arange(len(tracks)) / 25, fill_gaps_s=1.0)


def _truth(data: bytes) -> None:
    from tracker.eval.mot_files import read_ground_truth

    read_ground_truth(written("gt.txt", data))


def _reid_truth(data: bytes) -> None:
    from reid_training.data.mot_crops import read_truth

    read_truth(written("gt.txt", data))


def _mot_seeds() -> list[bytes]:
    return [
        b"1,-1,10,20,30,60,0.9,-1,-1,-1\n1,-1,50,20,30,60,0.4,-1,-1,-1\n2,-1,11.5,20,30,60,0.9,-1,-1,-1\n",
        b"1,1,10,20,30,60,0.9,-1,-1,-1\n2,1,11,20,30,60,0.8,-1,-1,-1\n4,2,50.25,20,30,60,1,-1,-1,-1\n",
        b"1,1,10,20,30,60,1,1,0.5\n1,2,50,20,30,60,0,12,1\n2,1,11,20,30,60,1,1,0.25\n",
        b"\xef\xbb\xbf1,1,1,1,1,1\r\n2,1,1,1,1,1\r\n",
        b"1,-1,10,20,30,60,30.5\n1,-1,50,20,30,60,-2\n",
    ]


NUMBERS = ("nan", "inf", "-1", "1e300", "-1e300", "1e18", "9223372036854775808", "2147483648", "0.5", "1_0", "\u0663")


# ------------------------------------------------------------------------------------------------- other tables


def _table(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        """What `track-report` does with a result."""
        from tracker.report.cli import write_report

        path = written(f"table{ending}", data)
        write_report(path, out=place() / "report.html", overwrite=True)

    return run


def _counts(data: bytes) -> None:
    from tracker.report.cli import read_counts

    read_counts(written("counts.csv", data))


def _people(data: bytes) -> None:
    from reid_training.data.csv_table import read, read_videos

    table = written("people.csv", data)
    for name in ("a.png", "b.png", "c.png"):
        (place() / name).touch()
    read(table)
    read_videos(table)


def _record(data: bytes) -> None:
    from tracker.many.plan import Record, Video

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


def _config(data: bytes) -> None:
    from tracker.config import TrackerConfig

    TrackerConfig.load(written("settings.toml", data)).to_toml()


def _reid_config(data: bytes) -> None:
    from reid_training.config import read_toml, to_toml

    to_toml(read_toml(str(written("run.toml", data))))


def _options(data: bytes) -> None:
    """A line for each option: its name, a blank, its value."""
    from tracker.options import classes_of, config_of, span_of
    from tracker.outputs import check_outputs
    from tracker.places import open_counters, parse_places

    words = ["film.avi", "--out", "tracks.txt"]
    for line in data.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition(" ")
        if name in OPTIONS:
            words.append(f"--{name}={value}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            args = _parser().parse_args(words)
    except SystemExit:  # argparse has said what is wrong
        return
    config, span = config_of(args), span_of(args)
    classes_of(args)
    check_outputs(args)
    places = parse_places(args.line, args.zone)
    open_counters(*places, 640, 480, 1.0)
    assert span.count(1000, 25.0) >= 0
    str(span)
    assert config.to_toml()


OPTIONS = (
    "set", "line", "zone", "start", "end", "stride", "classes", "fill-gaps", "conf", "fps", "reconnect", "threads",
    "detector-size", "detect-every", "appearance-weight", "checkpoint-every",
)  # fmt: skip


@cache
def _parser() -> argparse.ArgumentParser:
    from tracker.options import build_parser

    return build_parser()


def _option_seeds() -> list[bytes]:
    return [
        b"set lifecycle.lost_s=5\nset proposals.verifier=both\nset default_fps=20\n",
        b"line gate=100,200,300,200\nzone door=0.1,0.1,0.9,0.1,0.5,0.9\nline 0,0,1,1\n",
        b"start 1:30\nend 2:00.5\nstride 0.5s\n",
        b"start 250\nend 500\nstride 3\nclasses person,2, car\n",
        b"start 12.5s\nend 1:02:03\nconf 0.3\nfill-gaps 1\nfps 25\nreconnect inf\nthreads 2\n",
    ]


# ------------------------------------------------------------------------------------------------- checkpoints


def _checkpoint(data: bytes) -> None:
    from tracker import checkpoint

    checkpoint.load(written("tracks.txt.resume", data))


def _checkpoint_body(data: bytes) -> None:
    """Damage that the checksum does not show: made by hand."""
    from tracker import checkpoint
    from tracker.resume import saved_state

    head = f"tracklet-checkpoint {checkpoint.VERSION} {hashlib.sha256(data).hexdigest()}\n"
    saved_state(written("tracks.txt.resume", head.encode() + data))


@cache
def _checkpoint_seeds() -> tuple[bytes, ...]:
    from tracker import checkpoint

    path = place() / "seed.resume"
    state = {"asked": {"--fps": None}, "pipeline": {"held": [], "n": np.arange(3), "z": np.zeros((0, 4))}, "tally": {},
             "outputs": {"--out t": {"bytes": 3}}, "write_s": 0.5, "run_s": 1.0}  # fmt: skip
    checkpoint.save(path, state)
    return (path.read_bytes(),)


def _body_seeds() -> list[bytes]:
    return [data.partition(b"\n")[2] for data in _checkpoint_seeds()]


# ------------------------------------------------------------------------------------------------------ models


def _metadata(data: bytes) -> None:
    """A line for each key: its name, a blank, its value."""
    from tracker.appearance.encoder import read_card
    from tracker.detector.onnx import class_names_in, long_side_in

    pairs = (line.partition(" ")[::2] for line in data.decode("utf-8", "replace").split("\n"))
    metadata = dict(pairs)
    long_side_in(metadata)
    class_names_in(metadata)
    read_card(metadata, Path("model.onnx"))


def _metadata_seeds() -> list[bytes]:
    card = {
        "tracklet.format": "reid/1", "distance": "cosine", "name": "x", "input_height": "128", "input_width": "64",
        "color_order": "RGB", "pixel_scale": "0.0039", "mean": "0.5,0.5,0.5", "std": "[1, 1, 1]",
        "embedding_size": "128", "normalized": "true", "tau_same": "0.2", "tau_diff": "0.3", "sigma_same": "0.1",
        "trained_on": "x", "licence": "MIT", "names": "{0: 'person', 1: 'car'}", "imgsz": "[480, 640]",
    }  # fmt: skip
    return ["\n".join(f"{key} {value}" for key, value in card.items()).encode(), b"names ['a', 'b']\nimgsz 640"]


def _model(data: bytes) -> None:
    """Native code reads it: what ends the process is a finding, too."""
    from tracker.onnx_session import open_session

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


# -------------------------------------------------------------------------------------------- pictures and films


def _image(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        from tracker.sources.images import ImageFolder

        for frame in ImageFolder(written(f"picture{ending}", data)):
            assert frame.image is not None

    return run


def _film(ending: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        from tracker.sources.video import VideoFile

        with VideoFile(written(f"film{ending}", data)) as film:
            last_s = -1.0
            for n, frame in enumerate(film):
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
def _film_seed(ending: str) -> bytes:
    import cv2

    path = str(place() / f"seed{ending}")
    codec = "MJPG" if ending == ".avi" else "mp4v"
    film = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 10.0, (32, 32))
    for grey in range(0, 250, 50):
        film.write(np.full((32, 32, 3), grey, np.uint8))
    film.release()
    return Path(path).read_bytes()


# fmt: off
TARGETS = {
    "detections": Target(_detections, _mot_seeds, NUMBERS),
    "results": Target(_results, _mot_seeds, NUMBERS),
    "truth": Target(_truth, _mot_seeds, NUMBERS),
    "reid-truth": Target(_reid_truth, _mot_seeds, NUMBERS),
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
    "record": Target(_record, lambda: [
        b'{"video.txt": {"status": "done", "asked": "x", "seconds": 1.5, "attempts": 1, "error": ""}}'],
        ("../", "[[[[[[[[", "null", "1e400", "NaN")),
    "seqinfo": Target(_seqinfo, lambda: [
        b"[Sequence]\nname=SYN-01\nimDir=img1\nframeRate=25\nseqLength=40\nimWidth=160\nimHeight=120\nimExt=.jpg\n"],
        (*NUMBERS, "[DEFAULT]", "%(a)s", "../", "/etc", " ", ":", ";")),
    "config": Target(_config, lambda: [
        b"default_fps = 25.0\n[lifecycle]\nlost_s = 5\n[proposals]\nverifier = 'both'\nenabled = false\n"
        b"[association]\ngate_chi2 = 9.5\nveto = true\n"], (*NUMBERS, "[[[[[[[[", '"""', "{a={a=", "1979-05-27")),
    "reid-config": Target(_reid_config, lambda: [
        b"seed = 3\n[data]\nheight = 128\n[augment]\nerase_area = [0.02, 0.3]\n[net]\nname = 'osnet'\n"
        b"channels = [8, 8, 8, 8]\n[schedule]\nepochs = 3\nwarmup_epochs = 1\nmilestones = [1]\ndecay = 'step'\n"
        b"[method]\nname = 'siamese'\n"], (*NUMBERS, "[[[[[[[[", '"""', "{a={a={", "1979-05-27")),
    "options": Target(_options, _option_seeds, (*OPTIONS, *NUMBERS, "=", "none", "=,", "\u00b2")),
    "checkpoint": Target(_checkpoint, lambda: list(_checkpoint_seeds())),
    "checkpoint-body": Target(_checkpoint_body, _body_seeds, ("document.npy", "@array", "NUMPY", "PK", "descr")),
    "metadata": Target(_metadata, _metadata_seeds, (*NUMBERS, "{[]: 1}", "((((((((", "names", "imgsz", "mean", "\\n")),
    "model": Target(_model, lambda: list(_model_seeds()), ("Conv", "GlobalAveragePool", "Flatten", "image"), 65536),
    "png": Target(_image(".png"), lambda: [_picture(".png")], ("IHDR", "IDAT", "IEND"), 65536),
    "jpeg": Target(_image(".jpg"), lambda: [_picture(".jpg")], (), 65536),
    "avi": Target(_film(".avi"), lambda: [_film_seed(".avi")], ("RIFF", "LIST", "movi", "idx1", "avih"), 65536),
    "mp4": Target(_film(".mp4"), lambda: [_film_seed(".mp4")], ("moov", "mdat", "stsz", "stco", "stts", "mvhd"), 65536),
}
# fmt: on


def fuzz(name: str, runs: int, findings: Path, seed: int) -> None:
    """Guided by coverage; ends the process, with a status other than 0 at a finding."""
    import atheris

    target = TARGETS[name]
    corpus = place() / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    words = "".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in target.words)
    (place() / "words").write_text(words)
    with atheris.instrument_imports(include=["tracker", "reid_training", "csv", "json", "configparser", "tomllib"]):
        for data in target.seeds():
            check(target, data)
    findings.mkdir(parents=True, exist_ok=True)
    flags = [f"-runs={runs}", f"-seed={seed}", f"-timeout={CASE_S}", f"-rss_limit_mb={RSS_MB}", "-print_final_stats=1"]
    flags += [
        f"-max_len={target.length}",
        f"-artifact_prefix={findings}/",
        *([f"-dict={place() / 'words'}"] * bool(words)),
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: check(target, data))
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", nargs="?", choices=[*TARGETS, "all"], help="without one: their names")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--case", type=Path, help="run this one input, a finding, instead")
    args = parser.parse_args(argv)
    if args.target is None:
        print("\n".join(TARGETS))
    elif args.case is not None:
        print("taken" if check(TARGETS[args.target], args.case.read_bytes()) else "refused in one line")
    elif args.target == "all":
        return _fuzz_all(args.runs, args.seed, args.findings)
    else:
        fuzz(args.target, args.runs, args.findings / args.target, args.seed)
    return 0


def _fuzz_all(runs: int, seed: int, findings: Path) -> int:
    """Each in a process of its own, for a finding ends it."""
    failed = {}
    for name in TARGETS:
        command = [
            sys.executable,
            __file__,
            name,
            "--runs",
            str(runs),
            "--seed",
            str(seed),
            "--findings",
            str(findings),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        stats = [line for line in done.stderr.splitlines() if line.startswith("Done") or "number_of_executed" in line]
        print(json.dumps({"target": name, "status": done.returncode, "said": stats}), flush=True)
        if done.returncode:
            failed[name] = done.returncode
            print(done.stderr[-2000:], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
