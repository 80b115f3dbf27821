"""The networks that come with the package: their folder, and the short names of the re-ID networks."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tracker.errors import ModelError

DEFAULT_REID = "reid_fast.onnx"
REID = {"default": DEFAULT_REID, "fast": "reid_fast.onnx", "accurate": "reid_accurate.onnx"}


def weights_folder() -> Traversable:
    """tracker/weights where a wheel is installed; in a checkout the folder weights/ beside tracker/."""
    installed = files("tracker").joinpath("weights")
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "weights"


def bundled_reid(name: str | Path) -> str | None:
    """The file in `weights_folder()` that a short name stands for; None for a path, and where such a file exists.

    A network's own name (`reid_fast`) is as good. Raises ModelError for another word that is no file.
    """
    word = str(name)
    if Path(word).exists() or Path(word).suffix or Path(word).name != word:
        return None
    found = REID.get(word.removeprefix("reid_"))
    if found is None:
        raise ModelError(f"{word}: no such file; the bundled re-ID networks are fast (the default) and accurate")
    return found


def reid_file(name: str) -> Path:
    """The path that is given, or that of the network which a short name stands for; ModelError as `bundled_reid`."""
    bundled = bundled_reid(name)
    return Path(name) if bundled is None else Path(str(weights_folder().joinpath(bundled)))
