"""Imports point one way, as docs/architecture.md draws them: a forbidden import or an import cycle fails here.

tracker:        SHARED <- ALGORITHM, INPUT_OUTPUT, eval <- stages <- engine <- pipeline, build, api, ... <- commands
reid_training:  distances, mining, losses, pml, data, nets <- methods <- train, evaluate, export, ... <- cli
Imports inside functions count too; those under `if TYPE_CHECKING:` do not, because they do not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"types", "errors", "boxes", "classes", "settings", "config", "runtime", "analytics"}
ALGORITHM = {"appearance", "motion", "association", "tracks", "proposals"}  # the parts that stages and engine join
INPUT_OUTPUT = {"sources", "detector", "sinks"}
PARTS = ALGORITHM | INPUT_OUTPUT | {"eval"}
TRAINING_LEVEL = {
    **{"distances": 1, "mining": 1, "losses": 1, "pml": 1, "data": 1, "nets": 1},
    **{"methods": 2, "cli": 4},  # others: 3
}
TRAINING_SHARED = {"errors", "config", "configs"}
VAGUE = {"utils.py", "common.py", "misc.py", "helpers.py"}
FOREIGN = {"tracker": {"torch", "torchvision", "onnx", "reid_training"}, "reid_training": {"tracker"}}
# Shared by both packages; they know nothing of a tracker.
LEAVES = {"tracker.settings", "tracker.errors", "tracker.runtime.safe_paths", "tracker.runtime.weights"}
# Modules of eval/ that run the tracker; the others only score.
EVAL_RUNS = {
    "tracker.eval.cli", "tracker.eval.evaluate", "tracker.eval.track_and_score", "tracker.eval.tune",
    "tracker.eval.sequence_run", "tracker.eval.replicas",
}  # fmt: skip


def modules_of(root: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Dotted names that a module imports, down to the modules in `known`."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            deep = {f"{base}.{alias.name}" for alias in node.names}
            found.update(d if d in known else base for d in deep)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.update(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    return found


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from [other, *_running_nodes(other)]
            continue
        yield node
        yield from _running_nodes(node)


def violations(root: Path) -> list[str]:
    """Every import, file name and cycle that is not allowed, one line each."""
    wrong = []
    for package in ("tracker", "reid_training"):
        known = modules_of(root, package)
        imports = {name: imports_of(name, path, known) for name, path in known.items()}
        for name, path in known.items():
            if path.name in VAGUE:
                wrong.append(f"{name}: vague file name {path.name}")
            for target in sorted(imports[name]):
                reason = forbidden(package, name, target)
                if reason:
                    wrong.append(f"{name} imports {target}: {reason}")
        wrong += [f"cycle: {' -> '.join(cycle)}" for cycle in cycles(imports)]
    return wrong


def forbidden(package: str, name: str, target: str) -> str | None:
    top = target.split(".")[0]
    if target in LEAVES and package == "reid_training":
        return None
    if top in FOREIGN[package]:
        return f"{package} never imports {top}"
    if name in LEAVES and target not in LEAVES and top == package:
        return "a leaf imports no module of the tracker but errors"
    if top != package or target == package:
        return None
    here, there = [*name.split("."), ""][1], target.split(".")[1]
    if here in ("", there):
        return None if here != "methods" else _between_methods(name, target)
    if package == "reid_training":
        return _in_training(here, there)
    return _in_tracker("eval runs" if name in EVAL_RUNS else here, there)


def _in_tracker(here: str, there: str) -> str | None:
    if there == "commands":
        return "nothing imports a command"
    if here in SHARED and there not in SHARED:
        return "a shared module imports shared modules only"
    if here in PARTS and there not in SHARED:
        return "a part imports shared modules only"
    if here == "stages" and there not in SHARED | ALGORITHM:
        return "a stage imports shared modules and parts of the algorithm only"
    if here == "engine" and there not in SHARED | ALGORITHM | {"stages"}:
        return "the engine imports stages, shared modules and parts of the algorithm only"
    if there == "eval" and here != "commands":
        return "only commands and eval import eval"
    return None


def _in_training(here: str, there: str) -> str | None:
    if there in TRAINING_SHARED:
        return None
    if here in TRAINING_SHARED:
        return "a shared module imports shared modules only"
    if TRAINING_LEVEL.get(there, 3) > TRAINING_LEVEL.get(here, 3):
        return "the import points upwards"
    return None


def _between_methods(name: str, target: str) -> str | None:
    """All methods may import the interface (base) and the package itself, but not each other."""
    method, other = name.split(".")[2:3], target.split(".")[2:3]
    if not method or not other or other == ["base"] or method == other:
        return None
    return "methods never import methods"


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Every import cycle that a depth-first search meets."""
    done: set[str] = set()
    found: list[list[str]] = []

    def walk(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for target in sorted(imports[name] & imports.keys()):
                walk(target, [*trail, name])
            done.add(name)

    for name in imports:
        walk(name, [])
    return found


def test_imports_follow_the_layout():
    assert violations(ROOT) == []


def test_modules_of_finds_the_whole_tree():
    assert {"tracker.engine", "tracker.boxes", "tracker.eval.cli"} <= modules_of(ROOT, "tracker").keys()
    assert "tracker.types" in imports_of("tracker.boxes", ROOT / "tracker" / "boxes.py", modules_of(ROOT, "tracker"))


# file, its text, and a part of the complaint; None: allowed
CASES = [
    ("tracker/motion/kalman.py", "from tracker.types import X", None),
    ("tracker/motion/kalman.py", "from tracker import boxes", None),
    ("tracker/motion/kalman.py", "from tracker.motion import camera", None),
    ("tracker/motion/kalman.py", "from tracker.tracks.bank import TrackBank", "a part"),
    ("tracker/motion/kalman.py", "from ..tracks import bank", "a part"),
    ("tracker/motion/kalman.py", "import tracker.engine", "a part"),
    ("tracker/motion/kalman.py", "from tracker import engine", "a part"),
    ("tracker/motion/kalman.py", "def f():\n    from tracker.api import Tracker", "a part"),
    ("tracker/motion/kalman.py", "def f():\n    import_module('tracker.api')", "a part"),
    ("tracker/motion/kalman.py", "try:\n    import torch\nexcept ImportError:\n    pass", "never imports torch"),
    ("tracker/motion/kalman.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tracker.api", None),
    ("tracker/boxes.py", "from tracker.motion import kalman", "a shared module"),
    ("tracker/engine.py", "from tracker.motion import kalman", None),
    ("tracker/engine.py", "from tracker.stages import embed", None),
    ("tracker/engine.py", "import tracker.api", "the engine"),
    ("tracker/engine.py", "from tracker.sources import mot", "the engine"),
    ("tracker/stages/embed.py", "from tracker.appearance import gallery", None),
    ("tracker/stages/embed.py", "import tracker.engine", "a stage"),
    ("tracker/appearance/gallery.py", "from tracker.stages import embed", "a part"),
    ("tracker/eval/hota.py", "from tracker.sources import mot", "a part"),
    ("tracker/eval/cli.py", "def f():\n    from tracker.api import track_video", None),
    ("tracker/api.py", "from tracker.commands import track", "nothing imports a command"),
    ("tracker/api.py", "from tracker.eval import hota", "only commands"),
    ("tracker/commands/track.py", "from tracker.eval import hota", None),
    ("tracker/commands/track.py", "from tracker.commands import outputs", None),
    ("tracker/eval/cli.py", "from tracker.commands import track", "nothing imports a command"),
    ("tracker/stages/embed.py", "from tracker.sources import mot", "a stage"),
    ("tracker/api.py", "import reid_training.nets", "never imports reid_training"),
    ("tracker/utils.py", "", "vague file name"),
    ("reid_training/train.py", "from tracker.boxes import iou", "never imports tracker"),
    ("reid_training/train.py", "from tracker.settings import Settings", None),
    ("reid_training/train.py", "from tracker.errors import TrackletError", None),
    ("tracker/settings.py", "from tracker.errors import ConfigError", None),
    ("tracker/settings.py", "from tracker.boxes import iou", "a leaf"),
    ("reid_training/methods/bier.py", "from reid_training.methods import base", None),
    ("reid_training/methods/bier.py", "from reid_training.methods.siamese import Siamese", "methods never import"),
    ("reid_training/methods/bier.py", "from . import siamese", "methods never import"),
    ("reid_training/nets/resnet.py", "import reid_training.methods.siamese", "upwards"),
    ("reid_training/train.py", "from reid_training.methods import siamese", None),
]


@pytest.mark.parametrize(("file", "text", "complaint"), CASES)
def test_generated_tree_gives_the_expected_complaint(tmp_path, file, text, complaint):
    present = [
        "engine",
        "api",
        "errors",
        "settings",
        "commands/track",
        "commands/outputs",
        "eval/hota",
        "boxes",
        "stages/embed",
        "types",
        "motion/kalman",
        "motion/camera",
        "tracks/bank",
        "sources/mot",
    ]
    training = ["methods/base", "methods/siamese", "train"]
    for name in [*(f"tracker/{p}.py" for p in present), *(f"reid_training/{p}.py" for p in training), file]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    (tmp_path / file).write_text(text)
    found = violations(tmp_path)
    assert (not found) if complaint is None else any(complaint in line for line in found), found


def test_import_cycle_is_found(tmp_path):
    (tmp_path / "tracker" / "motion").mkdir(parents=True)
    (tmp_path / "tracker" / "motion" / "a.py").write_text("from tracker.motion import b")
    (tmp_path / "tracker" / "motion" / "b.py").write_text("def f():\n    from tracker.motion.a import g")
    assert any(line.startswith("cycle: tracker.motion.a -> tracker.motion.b") for line in violations(tmp_path))
