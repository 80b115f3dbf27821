"""Full disks, removed files, damage and kills during training: one line, and no weights are lost."""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from reid_training import train as training
from reid_training.cli import main
from reid_training.data import mot_crops
from reid_training.errors import ModelError
from reid_training.runs import load_checkpoint
from tests.oracles.disks import room_for
from tests.oracles.training_runs import same_runs, same_states
from tests.synthetic.mot import make_scene, write_sequence
from tracker.settings import to_toml

pytest.importorskip("resource")  # not on Windows

pytestmark = pytest.mark.slow  # each trains something

WHOLE = {"config.toml", "last.pt", "metrics.csv", "curve.png"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, market, tiny) -> Path:
    """A folder with config.toml; market/; whole/, a run; half/, the same stopped in its third epoch; net.onnx; mot/."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "config.toml").write_text(to_toml(tiny))
    (folder / "market").symlink_to(market)
    assert main(words(folder, folder / "whole")) == 0
    with pytest.MonkeyPatch.context() as patch:
        at_epoch(3, patch, stop)
        assert main(words(folder, folder / "half")) == 130
    assert main(["export", f"{folder}/whole", "--data", str(market), "--out", f"{folder}/net.onnx"]) == 0
    write_sequence(make_scene(4, n_people=4, n_frames=6, width=160, height=120), folder / "mot" / "SYN-01")
    return folder


def words(place: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--config", f"{place}/config.toml", "--data", f"{place}/market", "--out", str(out), *more]


def at_epoch(epoch: int, patch: pytest.MonkeyPatch, act) -> None:
    """Call `act` when that epoch begins."""
    plain = training.Run.epoch

    def begin(run, index):
        if index == epoch - 1:
            act()
        return plain(run, index)

    patch.setattr(training.Run, "epoch", begin)


def stop() -> None:
    raise KeyboardInterrupt


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("reid: ")
    return err


def names(folder: Path) -> set[str]:
    """Of all files in it, but for the curves of TensorBoard, which depend on what is installed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in files if not path.name.startswith("events.")}


# Full disks


@pytest.mark.parametrize("share", [0.0, 0.004, 0.99])
def test_run_resumes_when_the_disk_has_room(place, tmp_path, capsys, share):
    """0.004 of the checkpoint: the config has room, and what is written for TensorBoard soon has none."""
    run = shutil.copytree(place / "half", tmp_path / "run")
    before = (run / "last.pt").read_bytes()
    capsys.readouterr()
    with room_for(int(share * len(before))):
        assert main(words(place, run, "--resume")) == 1
    assert "File too large" in one_line(capsys)
    assert (run / "last.pt").read_bytes() == before
    assert names(run) == WHOLE - {"curve.png"}
    assert main(words(place, run, "--resume")) == 0
    assert same_runs(run, place / "whole")


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_run_that_failed_to_start_starts_again(place, tmp_path, capsys, share):
    run = tmp_path / "run"
    with room_for(int(share * (place / "half" / "last.pt").stat().st_size)):
        assert main(words(place, run)) == 1
    assert f"cannot write {run}" in one_line(capsys)
    assert names(tmp_path) == ({"run/config.toml"} if share else set())
    assert main(words(place, run)) == 0
    assert same_runs(run, place / "whole")


@pytest.mark.parametrize(("name", "n_epochs"), [("metrics.csv", 3), ("curve.png", 4)])
def test_weights_are_saved_before_log_and_curves(place, tmp_path, capsys, name, n_epochs):
    run = tmp_path / "run"
    shutil.copytree(place / "half", run)

    def in_the_way():
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    with pytest.MonkeyPatch.context() as patch:
        at_epoch(3, patch, in_the_way)
        capsys.readouterr()
        assert main(words(place, run, "--resume")) == 2
    assert f"cannot write {run / name}: Is a directory" in one_line(capsys)
    assert len(load_checkpoint(run)["history"]) == n_epochs
    (run / name).rmdir()
    assert main(words(place, run, "--resume")) == 0
    assert same_runs(run, place / "whole")
    assert names(run) == WHOLE


def test_failed_curves_do_not_lose_the_last_epochs(place, tmp_path, capsys, monkeypatch):
    events = pytest.importorskip("reid_training.event_log")
    calls = []

    def full(path, data):
        calls.append(path)
        if len(calls) == 3:  # after the beginning and the first epoch
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events, "append_whole", full)
    rare = ["--set", "schedule.checkpoint_every=4"]
    capsys.readouterr()
    assert main(words(place, tmp_path, *rare)) == 1
    assert ".reid: No space left on device" in one_line(capsys)
    assert len(load_checkpoint(tmp_path)["history"]) == 2
    monkeypatch.undo()
    assert main(words(place, tmp_path, *rare, "--resume")) == 0
    assert same_runs(tmp_path, place / "whole")


@pytest.mark.parametrize("n_bytes", [0, 5, 10, 14])
def test_event_log_appends_whole_records(tmp_path, n_bytes):
    events = pytest.importorskip("reid_training.event_log")
    path, n_whole = tmp_path / "log", 0
    with room_for(n_bytes), pytest.raises(OSError, match="File too large"):
        for _ in range(10):
            events.append_whole(path, memoryview(b"five."))
            n_whole += 1
    assert n_whole == n_bytes // 5
    assert (path.read_bytes() if n_whole else b"") == n_whole * b"five."
    assert path.exists() == (n_whole > 0)


COMMANDS = {
    "export": "export {0}/whole --data {0}/market --out {1}/net.onnx",
    "fp16": "export {0}/net.onnx --data {0}/market --out {1}/net.onnx --precision fp16",
    "int8": "export {0}/net.onnx --data {0}/market --out {1}/net.onnx --precision int8",
    "adapt": "adapt {0}/net.onnx --support {0}/market --out {1}/net.onnx --force",
    "json": "evaluate {0}/net.onnx --data {0}/market --json {1}/scores.json",
    "csv": "evaluate {0}/net.onnx --data {0}/market --csv {1}/scores.csv",
    "suggest-labels": "suggest-labels {0}/net.onnx --crops {0}/market/query --threshold 0.3 --out {1}/pairs.csv",
    "crops": "crops {0}/mot --out {1}/crops",
}
# Files that may exist already when the disk is full.
FIRST = {"suggest-labels": {"pairs.csv"}}


@pytest.mark.parametrize("n_bytes", [0, 200, 25_000])
@pytest.mark.parametrize("command", COMMANDS)
def test_other_commands_on_a_full_disk_are_one_line(place, tmp_path, capsys, monkeypatch, command, n_bytes):
    if n_bytes == 25_000 and command in ("json", "csv", "crops"):
        pytest.skip("all of it has room")
    out, drafts = tmp_path / "out", tmp_path / "drafts"
    out.mkdir()
    drafts.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(drafts))
    capsys.readouterr()
    with room_for(n_bytes):
        assert main(COMMANDS[command].format(place, out).split()) == 1
    said = one_line(capsys)
    assert f"cannot write {out}" in said or f"cannot write drafts in {drafts}" in said
    assert names(tmp_path) <= {f"out/{name}" for name in FIRST.get(command, ())}
    for name in names(tmp_path):
        rows = list(csv.DictReader((tmp_path / name).open(newline="")))
        assert [row["same"] for row in rows] == [""] * 20
    if command == "crops":
        assert list((out / "crops").iterdir()) == [], "the same command finds its folder free"


def test_full_temporary_folder_is_one_line(place, tmp_path, capsys, monkeypatch):
    """Then tempfile finds none, and asking it for its name fails once more."""
    monkeypatch.setattr("tempfile.tempdir", None)
    capsys.readouterr()
    with room_for(0):
        assert main(COMMANDS["adapt"].format(place, tmp_path).split()) == 2
    assert "cannot write drafts in the folder for temporary files: No usable temporary directory" in one_line(capsys)


def test_interrupted_crops_leave_nothing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(mot_crops, "logger", type("", (), {"info": lambda *_: stop()}))  # all crops of it are cut
    out = tmp_path / "out"
    assert main(COMMANDS["crops"].format(place, out).split()) == 130
    assert list((out / "crops").iterdir()) == []
    monkeypatch.undo()
    assert main(COMMANDS["crops"].format(place, out).split()) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_standard_output_keeps_the_run(place, tmp_path, capsys, monkeypatch):
    """The progress is lost; the run is complete all the same."""
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words(place, tmp_path / "run")) == 1
        monkeypatch.undo()
    assert "cannot write standard output: No space left on device" in one_line(capsys)
    assert names(tmp_path / "run") == WHOLE
    assert same_runs(tmp_path / "run", place / "whole")


def test_closed_standard_output_ends_silently(capsys, monkeypatch):
    theirs, ours = os.pipe()
    os.close(theirs)
    with os.fdopen(ours, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["methods"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


# Removed meanwhile


@pytest.mark.parametrize(("what", "every"), [("run", 1), ("run", 4), ("run/last.pt", 1), ("run/config.toml", 1)])
def test_removed_files_are_written_again(place, tmp_path, capsys, monkeypatch, what, every):
    def remove():
        shutil.rmtree(tmp_path / what) if what == "run" else (tmp_path / what).unlink()

    at_epoch(3, monkeypatch, remove)
    capsys.readouterr()
    rare = ["--set", f"schedule.checkpoint_every={every}"]
    assert main(words(place, tmp_path / "run", *rare)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert ("config.toml was removed meanwhile; it is written again" in out) == (what in ("run", "run/config.toml"))
    assert names(tmp_path / "run") == WHOLE
    assert same_runs(tmp_path / "run", place / "whole")
    for name in ("config.toml", "curve.png"):
        assert (tmp_path / "run" / name).stat().st_size == (place / "whole" / name).stat().st_size
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5


# Damage


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_flipped_bit_in_a_weight_is_detected(place, tmp_path, capsys):
    content = (place / "half" / "last.pt").read_bytes()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        weights = [part for part in archive.infolist() if "/data/" in part.filename and part.file_size > 1000]
    assert len(weights) > 10
    for part in weights:
        head = int.from_bytes(content[part.header_offset + 26 : part.header_offset + 28], "little")
        head += int.from_bytes(content[part.header_offset + 28 : part.header_offset + 30], "little")
        at = part.header_offset + 30 + head + int(rng.integers(part.file_size))
        (tmp_path / "last.pt").write_bytes(flipped(content, at, int(rng.integers(8))))
        with pytest.raises(ModelError, match=r"last\.pt is not a checkpoint, or it is damaged"):
            load_checkpoint(tmp_path)
    capsys.readouterr()
    assert main(words(place, tmp_path, "--resume")) == 2
    assert "last.pt is not a checkpoint, or it is damaged" in one_line(capsys)


def test_flipped_bit_anywhere_is_harmless_or_detected(place, tmp_path):
    content, n_noticed = (place / "half" / "last.pt").read_bytes(), 0
    whole = load_checkpoint(place / "half")
    rng = np.random.default_rng(0)
    ends = np.concatenate([rng.integers(len(content), size=60), len(content) - 1 - np.arange(0, 600, 15)])
    for at in ends.tolist():
        (tmp_path / "last.pt").write_bytes(flipped(content, at, int(rng.integers(8))))
        try:
            state = load_checkpoint(tmp_path)
        except ModelError:
            n_noticed += 1
        else:
            assert same_states(state, whole)
    assert n_noticed > 60


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9999])
def test_truncated_checkpoint_is_refused(place, tmp_path, capsys, share):
    content = (place / "half" / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: int(share * len(content))])
    capsys.readouterr()
    assert main(words(place, tmp_path, "--resume")) == 2
    assert "last.pt is not a checkpoint, or it is damaged" in one_line(capsys)
    assert names(tmp_path) == {"last.pt"}


# Kills

# Arguments: a checkpoint, and one after the other those that it shall replace.
KILLED = """
import os, resource, signal, sys
from pathlib import Path
from reid_training import runs

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def no_room():  # the signal kills in the middle of the file
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

points = (no_room, lambda: setattr(runs.os, "fsync", killed), lambda: setattr(runs.os, "replace", killed))
for prepare, path in zip(points, sys.argv[2:], strict=True):
    pid = os.fork()  # before anything has started a thread
    if pid == 0:
        state = runs.load_checkpoint(Path(sys.argv[1]))
        prepare()
        runs.save_checkpoint(Path(path), state)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-signal.SIGKILL, -signal.SIGXFSZ)
"""


def test_killed_during_checkpoint_writing_resumes(place, tmp_path):
    runs = [shutil.copytree(place / "half", tmp_path / point) for point in ("written", "forced", "named")]
    before = (place / "half" / "last.pt").read_bytes()
    given = [str(path / "last.pt") for path in (place / "whole", *runs)]
    subprocess.run([sys.executable, "-c", KILLED, *given], check=True, timeout=200, env=one_thread())
    for run in runs:
        assert (run / "last.pt").read_bytes() == before
    assert (runs[0] / "last.pt.part").stat().st_size == 100_000
    assert main(words(place, runs[0], "--resume")) == 0
    assert names(runs[0]) == WHOLE
    assert same_runs(runs[0], place / "whole")


def one_thread() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}


def test_log_missing_after_a_kill_is_written_by_the_next_run(place, tmp_path):
    """Also if no epoch is left."""
    run = shutil.copytree(place / "whole", tmp_path / "run")
    log = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text("".join(log.splitlines(keepends=True)[:-1]))
    (run / "last.pt.part").write_bytes(b"half")
    assert main(words(place, run, "--resume")) == 0
    assert (run / "metrics.csv").read_text() == log
    assert names(run) == WHOLE
