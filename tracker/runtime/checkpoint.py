"""A checkpoint file: one state, with a checksum, replaced as a whole or not at all.

A line of text, `tracklet-checkpoint 6 SHA-256`, with the hash of all that follows: a .npz archive whose member
`document` is JSON in UTF-8 bytes, in which {"@array": "0"} stands for the member `0`. Nothing in it is ever executed:
no pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.errors import ResumeError, WriteError
from tracker.runtime.whole_file import replace_file, unfinished
from tracker.types import State

VERSION = "6"  # of what is inside; others cannot be resumed
_MAGIC = "tracklet-checkpoint"
_ARRAY = "@array"
_START_AGAIN = "--overwrite starts again"


def save(path: Path, state: State) -> None:
    """Write the state. Whatever happens meanwhile, power cuts included, `path` is the old file or the new one.

    Raises WriteError where the system refuses.
    """
    arrays: dict[str, NDArray[Any]] = {}
    document = json.dumps(_without_arrays(state, arrays)).encode()
    body = io.BytesIO()
    np.savez(body, document=np.frombuffer(document, np.uint8), **arrays)  # type: ignore[arg-type]
    head = f"{_MAGIC} {VERSION} {hashlib.sha256(body.getvalue()).hexdigest()}\n"
    try:
        replace_file(path, head.encode() + body.getvalue())
    except OSError as error:
        raise WriteError(f"{path}: the checkpoint cannot be written: {error.strerror or error}") from error


def load(path: Path) -> State:
    """The state in the file. Raises ResumeError for what is no checkpoint, damaged, or of another version."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise ResumeError(f"{path}: the checkpoint cannot be read: {error.strerror}") from error
    words = head[:200].decode("ascii", "replace").split(" ")
    if words[0] != _MAGIC or len(words) != 3:
        raise ResumeError(f"{path}: is no checkpoint of track; {_START_AGAIN}")
    if words[1] != VERSION:
        raise ResumeError(
            f"{path}: is a checkpoint of version {words[1]}, and this program reads {VERSION}; {_START_AGAIN}"
        )
    if words[2] != hashlib.sha256(body).hexdigest():
        raise ResumeError(f"{path}: the checkpoint is damaged or truncated (its checksum differs); {_START_AGAIN}")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            state: State = _with_arrays(json.loads(archive["document"].tobytes()), archive)
    except Exception as error:  # a valid checksum made by hand; zip, zlib, NumPy and JSON raise many types
        raise ResumeError(f"{path}: is no checkpoint of track ({error}); {_START_AGAIN}") from error
    return state


def remove(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    for name in (path, unfinished(path)):
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)


def _without_arrays(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """The value as JSON can hold it; arrays go into `arrays` by number."""
    if isinstance(value, np.ndarray):
        assert not value.dtype.hasobject
        name = str(len(arrays))
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, dict):
        assert _ARRAY not in value
        return {key: _without_arrays(inner, arrays) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(inner, arrays) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _with_arrays(value: Any, archive: Any) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return archive[value[_ARRAY]]
        return {key: _with_arrays(inner, archive) for key, inner in value.items()}
    return [_with_arrays(inner, archive) for inner in value] if isinstance(value, list) else value
