"""One ONNX model, opened: which provider took it, its inputs, outputs and metadata, and errors in one line each.

onnxruntime's GPU wheels list CUDA as available even where no driver is installed, and then write a page of C++ log to
the process's stderr when a session asks for it. So CUDA is asked for only where the driver itself answers, and what
the library still writes while it loads is caught and turned into one sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import mmap
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tracker.errors import ModelError
from tracker.runtime.safe_paths import leaves_folder
from tracker.runtime.signals import held_back

DEVICES = ("auto", "cpu", "cuda")

_log = logging.getLogger(__name__)
_MANIFEST = "SHA256SUMS"  # in weights/, as `sha256sum *.onnx` writes it
_quiet_lock = threading.Lock()  # stderr belongs to the process: two sessions must not redirect it crosswise
_SILENT = 4  # onnxruntime's "fatal": every error reaches us as an exception anyway
_GIT_LFS = b"version https://git-lfs"
_LOCATION = b"\x0a\x08location\x12"  # StringStringEntryProto of a tensor's external_data, up to the value's length
_LONGEST_NAME = 4096  # bytes
# Fields of ONNX's ModelProto by wire type: 0 varint, 2 length-delimited (onnx.proto of ONNX 1.18).
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model."""

    name: str
    shape: tuple[int | None, ...]  # None where the model leaves a dimension open
    dtype: str  # as onnxruntime writes it: "float", "float16", "int64", ...

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} {self.dtype} ({sizes})"


@dataclass(frozen=True, slots=True)
class _ModelFile:
    path: Path
    content: bytes | None  # what was checked; None: the runtime reads the file, and files beside it that it names


class Session:
    """A loaded model. `provider` is "cuda" or "cpu": the one that really runs it."""

    def __init__(self, path: Path, runtime: Any, provider: str) -> None:
        self.path = path
        self.provider = provider
        try:
            self.metadata: Mapping[str, str] = dict(runtime.get_modelmeta().custom_metadata_map)
            self.inputs = tuple(_port(value) for value in runtime.get_inputs())
            self.outputs = tuple(_port(value) for value in runtime.get_outputs())
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: is damaged: a name in it is no text in UTF-8") from error
        self._runtime = runtime

    def run(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs for the inputs in the model's order. Raises ModelError where the model refuses them."""
        feeds = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        try:
            results: list[NDArray[Any]] = self._runtime.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            shapes = ", ".join(str(np.shape(value)) for value in values)
            raise ModelError(f"{self.path}: the model failed on input of shape {shapes}: {_reason(error)}") from error
        return results


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that comes with the package, and what the manifest of the weights says about it."""

    path: Path
    sha256: str | None  # lower-case hexadecimal; None: the manifest does not name the file


@contextlib.contextmanager
def packaged_model(file_name: str) -> Iterator[PackagedModel]:
    """A bundled model. Raises ModelError where the folder of the weights is missing or incomplete."""
    home = _weights_folder()
    manifest = home.joinpath(_MANIFEST)
    try:
        lines = manifest.read_bytes().decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise ModelError(f"{manifest}: cannot be read: {error.strerror}; install tracklet again") from error
    pairs = [line.split(maxsplit=1) for line in lines]
    known = {pair[1].removeprefix("*"): pair[0].lower() for pair in pairs if len(pair) == 2}
    # A real file in a checkout and in an installed wheel alike; unpacked only where the package is a zip.
    with as_file(home.joinpath(file_name)) as path:
        yield PackagedModel(path, known.get(file_name))


def _weights_folder() -> Traversable:
    """tracker/weights where a wheel is installed; in a checkout the folder weights/ beside tracker/."""
    installed = files("tracker").joinpath("weights")
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "weights"


def open_session(model: str | Path | PackagedModel, device: str = "auto", threads: int | None = None) -> Session:
    """Load a model. One that comes with the package is checked first: what is hashed is what is loaded.

    device: "cpu"; "cuda", which raises ModelError where CUDA does not load; "auto", which then falls back to the CPU.
    threads: of one call on the CPU; None leaves the choice to onnxruntime (one for each physical core).
    Raises ModelError with the path and the reason where the file is missing, empty, cut short, no ONNX model, or not
    the one that came with the package.
    """
    if device not in DEVICES:
        raise ModelError(f"unknown device {device!r}; there are: {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise ModelError(f"threads must be >= 1, got {threads}")
    path = model.path if isinstance(model, PackagedModel) else Path(model)
    _check_file(path)
    # What this program sees is nobody's business: onnxruntime would tell its maker that it runs, through the network.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    file = _ModelFile(path, _checked_content(model) if isinstance(model, PackagedModel) else None)
    # The import alone may already complain on stderr about missing graphics devices. Interrupted, it would say that its
    # initialization failed.
    with _stderr_caught(), held_back():
        import onnxruntime

    if device != "cpu":
        runtime, problem = _open_on_cuda(onnxruntime, file, threads)
        if runtime is not None:
            return Session(path, runtime, "cuda")
        if device == "cuda":
            raise ModelError(f"device cuda was asked for, but {problem}; use --device auto or cpu")
        _log.debug("CUDA is not used: %s", problem)
    runtime = _open(onnxruntime, file, threads, "CPUExecutionProvider")
    return Session(path, runtime, "cpu")


def cuda_driver_problem() -> str | None:
    """Why no CUDA device can be used, or None. Asks NVIDIA's driver, which answers without writing anything."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver is installed ({name} not found)"
    count = ctypes.c_int(0)
    try:
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except AttributeError:
        return f"{name} is no NVIDIA driver"
    if status != 0:
        return f"the NVIDIA driver does not start (CUDA error {status})"
    return None if count.value > 0 else "the NVIDIA driver sees no GPU"


def _open_on_cuda(onnxruntime: Any, file: _ModelFile, threads: int | None) -> tuple[Any | None, str]:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None, "the installed onnxruntime has no CUDA provider (pip install onnxruntime-gpu)"
    problem = cuda_driver_problem()
    if problem is not None:
        return None, problem
    with _stderr_caught() as caught:
        try:
            # CUDA and cuDNN may come from pip packages, which the loader does not find by itself. It prints failures.
            with contextlib.redirect_stdout(None), contextlib.suppress(Exception):
                onnxruntime.preload_dlls()
            runtime = _open(onnxruntime, file, threads, "CUDAExecutionProvider", "CPUExecutionProvider")
        except ModelError:
            # The file may be at fault: the CPU provider then says so in its own words.
            _open(onnxruntime, file, threads, "CPUExecutionProvider")
            return None, "onnxruntime's CUDA provider cannot run this model"
    if "CUDAExecutionProvider" in runtime.get_providers():
        return runtime, ""
    missing = re.search(r"with error: ([^\r\n\x1b]+)", caught.text)
    detail = f" ({missing.group(1).strip()})" if missing else ""
    return None, f"onnxruntime's CUDA provider does not load{detail}"


def _open(onnxruntime: Any, file: _ModelFile, threads: int | None, *providers: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
    # Waiting threads sleep: spinning ones take the cores from the decoder, the tracker and the other network.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        model = str(file.path) if file.content is None else file.content
        # Without its own second try, which tells of itself on stdout, among the results of `--out -`.
        return onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
    except Exception as error:
        raise ModelError(f"{file.path}: {_why_not_onnx(file.path) or 'cannot be loaded: ' + _reason(error)}") from error


def _checked_content(model: PackagedModel) -> bytes:
    """The bytes of a packaged model. Raises ModelError unless they are those that the manifest names."""
    if model.sha256 is None:
        manifest = model.path.with_name(_MANIFEST)
        raise ModelError(f"{manifest}: has no line for {model.path.name}; install tracklet again")
    try:
        content = model.path.read_bytes()
    except OSError as error:
        raise ModelError(f"{model.path}: cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != model.sha256:
        raise ModelError(
            f"{model.path}: is not the file that came with tracklet: its SHA-256 begins with {found[:12]}, that in "
            f"{_MANIFEST} with {model.sha256[:12]}; it is damaged or was replaced, so install tracklet again"
        )
    return content


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise ModelError(f"{path}: no such model file")
        if not path.is_file():
            raise ModelError(f"{path}: is no file; expected an ONNX model")
        with path.open("rb") as file:
            head = file.read(len(_GIT_LFS))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: the file is empty; expected an ONNX model")
    if head == _GIT_LFS:
        raise ModelError(f"{path}: is only a Git LFS pointer; `git lfs pull` fetches the model itself")
    for name in _external_files(path):
        if leaves_folder(name):
            raise ModelError(f"{path}: keeps weights in a file outside its folder, {name!r}; they must lie beside it")


def _external_files(path: Path) -> Iterator[str]:
    """Files that hold a model's weights, as it names them; no version of onnxruntime is to follow them elsewhere.

    Found by their bytes, the entry {key: "location", value: NAME}: reading the model needs the package onnx.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_LOCATION)
        while at >= 0:
            file.seek(at + len(_LOCATION))
            length = _varint(file)
            yield file.read(min(length or 0, _LONGEST_NAME)).decode("utf-8", "replace")
            at = data.find(_LOCATION, at + 1)


def _why_not_onnx(path: Path) -> str | None:
    """What is wrong with the outermost fields of a file that did not load; None where they are in order.

    Walks the fields without reading what is in them, so a file cut anywhere is told from a file of another kind.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = True
        while file.tell() < size:
            key = _varint(file)
            field, wire = (None, None) if key is None else (key >> 3, key & 7)
            if field is None or _MODEL_FIELDS.get(field) != wire:
                # Damage behind a good start is damage; a wrong start is another kind of file.
                return "is no ONNX model" if first else "is damaged: not a complete ONNX model"
            length = _varint(file)
            if length is None or (wire == 2 and file.tell() + length > size):
                return "is cut short: not a complete ONNX model"
            if wire == 2:
                file.seek(length, os.SEEK_CUR)
            first = False
    return None


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _reason(error: Exception) -> str:
    """The sentence in onnxruntime's message, without its codes, source lines and line breaks."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S+\.(?:cc|h):\d+ ", "", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _port(value: Any) -> Port:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return Port(value.name, shape, value.type.removeprefix("tensor(").removesuffix(")"))


class _Caught:
    text = ""


@contextlib.contextmanager
def _stderr_caught() -> Iterator[_Caught]:
    """Catch what C++ writes to file descriptor 2; Python's own sys.stderr is above it and cannot."""
    caught = _Caught()
    with _quiet_lock, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr, such as a service: nothing to keep clean
            yield caught
            return
        stack.callback(os.close, kept)
        sink = stack.enter_context(tempfile.TemporaryFile())
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(sink.fileno(), 2)
        try:
            yield caught
        finally:
            os.dup2(kept, 2)
            sink.seek(0)
            caught.text = sink.read().decode("utf-8", "replace")
