"""No content of a user's file is ever executed: no such function is called, and a hostile file gives one line."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tracker.commands import track as cli
from tracker.errors import ResumeError
from tracker.runtime import checkpoint

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("tracker", "reid_training", "tools")
# Reading one of their files can run any code. multiprocessing pickles too, but reads only what our own processes wrote.
MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "jsonpickle",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Last parts of names of functions.
CALLS = {"read_pickle", "Unpickler"}
TORCH = {"torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.serialization.load"}


def unsafe(text: str) -> list[str]:
    """Calls and imports of a module that could execute the content of a file, one line each."""
    return [f"{node.lineno}: {reason}" for node in ast.walk(ast.parse(text)) if (reason := unsafe_node(node))]


def unsafe_node(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import):
        return next((f"imports {a.name}" for a in node.names if a.name.split(".")[0] in MODULES), None)
    if isinstance(node, ast.ImportFrom):
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        if (node.module or "").split(".")[0] in MODULES:
            return f"imports {node.module}"
        # Under another name its arguments would not be checked.
        return next((f"imports {name}" for name in names if name in {"torch.load", "numpy.load", *TORCH}), None)
    return unsafe_call(node) if isinstance(node, ast.Call) else None


def unsafe_call(node: ast.Call) -> str | None:
    name = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if name in BUILTINS or name.rpartition(".")[2] in CALLS or name in TORCH or name == "os.system":
        return f"calls {name}"
    if name == "torch.load" and options.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        return "np.load without allow_pickle=False"
    if options.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle"
    if options.get("shell", "False") != "False":
        return f"{name} with a shell"
    return None


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_code_executes_a_file(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 10
    found = {path.relative_to(ROOT): unsafe(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    import yaml",
        "from joblib import load",
        "from torch import load",
        "from numpy import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "torch.load(path, map_location='cpu')",
        "torch.jit.load(path)",
        "torch.hub.load('a/b', 'c')",
        "np.load(path)",
        "np.load(path, mmap_mode='r')",
        "np.load(path, allow_pickle=True)",
        "format.read_array(file, allow_pickle=True)",
        "pd.read_pickle(path)",
        "eval(text)",
        "exec(text)",
        "exec('import pickle')",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_checker_finds(text):
    assert len(unsafe(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "net.eval()",
        "ast.literal_eval(text)",
        "re.compile(text)",
        "subprocess.run(['a', 'b'])",
    ],
)
def test_checker_accepts(text):
    assert unsafe(text) == []


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trap(tmp_path):
    """A checked trap; after the test it must not have been executed."""
    tried = tmp_path / "tried"
    pickle.loads(pickle.dumps(Trap(tried)))
    assert tried.is_dir()
    snapped = tmp_path / "snapped"
    yield Trap(snapped)
    assert not snapped.exists()


def forged(path: Path, **arrays: np.ndarray) -> Path:
    """A checkpoint of `track` with a valid checksum, which an attacker can compute."""
    body = io.BytesIO()
    np.savez(body, allow_pickle=True, **arrays)
    head = f"tracklet-checkpoint {checkpoint.VERSION} {hashlib.sha256(body.getvalue()).hexdigest()}\n"
    path.write_bytes(head.encode() + body.getvalue())
    return path


def test_track_checkpoint_executes_nothing(trap, tmp_path):
    objects = np.array([trap], dtype=object)
    pointing = np.frombuffer(b'{"engine": {"@array": "0"}}', np.uint8)
    for arrays in ({"document": objects}, {"document": pointing, "0": objects}):
        path = forged(tmp_path / "t.txt.resume", **arrays)
        with pytest.raises(ResumeError, match=r"^[^\n]*is no checkpoint of track[^\n]*$"):
            checkpoint.load(path)
    path.write_bytes(pickle.dumps(trap))
    with pytest.raises(ResumeError, match="is no checkpoint of track"):
        checkpoint.load(path)


def test_command_does_not_resume_such_a_checkpoint(trap, tmp_path, capfd):
    from tests.synthetic.mot import make_scene, write_sequence

    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), tmp_path / "one")
    (tmp_path / "t.txt").touch()
    forged(tmp_path / "t.txt.resume", document=np.array([trap], dtype=object))
    words = [tmp_path / "one", "--out", tmp_path / "t.txt", "--detections", "public", "--reid", "none", "--resume"]
    assert cli.main([str(word) for word in words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is no checkpoint of track" in line


@pytest.mark.parametrize("option", ["--detections", "--reid", "--detector", "--config"])
def test_no_input_of_the_command_is_unpickled(option, trap, tmp_path, capfd):
    from tests.synthetic.mot import make_scene, write_sequence

    write_sequence(make_scene(0, n_people=1, n_frames=2, width=64, height=48), tmp_path / "one")
    evil = tmp_path / "evil.npz"
    np.savez(evil, allow_pickle=True, a=np.array([trap], dtype=object))
    for content in (pickle.dumps(trap), evil.read_bytes()):
        evil.write_bytes(content)
        words = [tmp_path / "one", "--out", tmp_path / "t.txt", option, evil]
        words += [] if option in ("--detections", "--detector") else ["--detections", "public"]
        assert cli.main([str(word) for word in words]) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("command", ["evaluate", "export", "resume"])
def test_training_checkpoint_executes_nothing(command, legacy, trap, tmp_path, capfd):
    torch = pytest.importorskip("torch")
    from reid_training import cli as reid
    from reid_training.data.synthetic import write_market_folder

    run, data = tmp_path / "run", tmp_path / "data"
    run.mkdir()
    write_market_folder(data, size=(16, 8))
    torch.save(
        {"format": "tracklet-checkpoint/1", "config": trap}, run / "last.pt", _use_new_zipfile_serialization=not legacy
    )
    words = {
        "evaluate": ["evaluate", str(run), "--data", str(data)],
        "export": ["export", str(run), "--data", str(data), "--out", str(tmp_path / "net.onnx")],
        "resume": ["train", "--resume", "--data", str(data), "--out", str(run)],
    }[command]
    assert reid.main(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "last.pt is not a checkpoint, or it is damaged" in line


def test_experiment_arrays_execute_nothing(trap, tmp_path):
    pytest.importorskip("torch")
    from reid_training.errors import DataError
    from tools.experiments.protocols import Omniglot

    (tmp_path / "omniglot").mkdir()
    objects = np.array([trap], dtype=object)
    np.savez(tmp_path / "omniglot" / "omniglot_105.npz", allow_pickle=True, packed=objects)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        Omniglot().prepare(tmp_path, tmp_path / "out")
