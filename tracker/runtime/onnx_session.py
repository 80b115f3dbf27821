"""Open an ONNX model: check the file, choose what runs it, raise errors of one line."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tracker.errors import ModelError
from tracker.runtime import openvino_network
from tracker.runtime.network import Network, Port, reason_in
from tracker.runtime.safe_paths import leaves_folder
from tracker.runtime.weights import weights_folder

DEVICES = ("auto", "cpu", "cuda", "openvino", "openvino-f32")

_log = logging.getLogger(__name__)
_MANIFEST = "SHA256SUMS"  # in weights/, as `sha256sum *.onnx` writes it
_SILENT = 4  # onnxruntime's "fatal": every error reaches us as an exception anyway
# Of onnxruntime, and of OpenVINO for a file and for bytes.
_NO_MODEL = ("Protobuf parsing failed", "Model can't be parsed", "Error during import of ONNX model")
_GIT_LFS = b"version https://git-lfs"
# The entry {key: "location", value: NAME} of a tensor whose data lie in another file. Reading it properly needs the
# package onnx. Names of 128 bytes or more have a length of two bytes.
_LOCATION = re.compile(rb"\n\x08location\x12([\x00-\x7f]|[\x80-\xff].)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A bundled model and its checksum in the manifest of the weights."""

    path: Path
    sha256: str | None  # lower-case hexadecimal; None: the manifest does not name the file


_Arguments: TypeAlias = tuple[Path | PackagedModel, str, int | None]  # of `open_session`


@dataclass(frozen=True, slots=True)
class _ModelFile:
    path: Path
    content: bytes | None  # the bytes that were checked; None: onnxruntime reads the file, and files that it names


class Session:
    """A loaded model. `provider` is the device that really runs it, never "auto".

    It keeps nothing from run to run, so that copies and threads share it; pickled, it is the arguments of
    `open_session`.
    """

    def __init__(self, path: Path, network: Network, provider: str, arguments: _Arguments) -> None:
        self.path = path
        self.provider = provider
        self.metadata, self.inputs, self.outputs = network.metadata, network.inputs, network.outputs
        self._network, self._arguments = network, arguments

    def __copy__(self) -> Session:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    def __reduce__(self) -> tuple[Callable[..., Session], _Arguments]:
        return open_session, self._arguments

    def run(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs for the inputs in the model's order. Raises ModelError where the model refuses them."""
        try:
            return self._network.run(values)
        except Exception as error:  # the runtimes' exceptions have no base class of their own
            shapes = ", ".join(str(np.shape(value)) for value in values)
            raise ModelError(f"{self.path}: the model failed on input of shape {shapes}: {reason_in(error)}") from error


@contextlib.contextmanager
def packaged_model(file_name: str) -> Iterator[PackagedModel]:
    """A bundled model. Raises ModelError where the folder of the weights is missing or incomplete."""
    home = weights_folder()
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


def open_session(model: str | Path | PackagedModel, device: str = "auto", threads: int | None = None) -> Session:
    """Load a model. Of a bundled one the SHA-256 is checked, on the same bytes that are loaded.

    device: "cpu"; "cuda", which raises ModelError where CUDA does not load; "auto", which then falls back to the CPU;
    "openvino" and "openvino-f32", the CPU by way of that package, which raise ModelError where it is not installed. The
    first computes in bfloat16 on processors that have it.
    threads: of one call on the CPU; None leaves the choice to the runtime (one for each physical core).
    Raises ModelError with the path and the reason if the file is missing, empty, damaged, no ONNX model, or not the
    bundled one.
    """
    if device not in DEVICES:
        raise ModelError(f"unknown device {device!r}; there are: {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise ModelError(f"threads must be >= 1, got {threads}")
    path = model.path if isinstance(model, PackagedModel) else Path(model)
    arguments = (model if isinstance(model, PackagedModel) else path.absolute(), device, threads)
    _check_file(path)
    # Disable onnxruntime's telemetry.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    file = _ModelFile(path, _checked_content(model) if isinstance(model, PackagedModel) else None)
    if device.startswith("openvino"):
        return Session(path, _load_with_openvino(file, threads, f32=device == "openvino-f32"), device, arguments)
    network, provider = _load_with_onnxruntime(file, device, threads)
    return Session(path, network, provider, arguments)


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


def _load_with_openvino(file: _ModelFile, threads: int | None, *, f32: bool) -> Network:
    try:
        return openvino_network.load(file.path if file.content is None else file.content, threads, f32=f32)
    except ModelError:
        raise
    except Exception as error:
        raise _cannot_load(file, error) from error


def _load_with_onnxruntime(file: _ModelFile, device: str, threads: int | None) -> tuple[Network, str]:
    """The network, and "cuda" or "cpu"."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_SILENT)
    if device != "cpu":
        runtime, problem = _open_on_cuda(onnxruntime, file, threads)
        if runtime is not None:
            return _network(runtime, file), "cuda"
        if device == "cuda":
            raise ModelError(f"device cuda was asked for, but {problem}; use --device auto or cpu")
        _log.debug("CUDA is not used: %s", problem)
    return _network(_open(onnxruntime, file, threads, "CPUExecutionProvider"), file), "cpu"


def _network(runtime: Any, file: _ModelFile) -> Network:
    try:
        metadata = dict(runtime.get_modelmeta().custom_metadata_map)
        inputs, outputs = tuple(map(_port, runtime.get_inputs())), tuple(map(_port, runtime.get_outputs()))
    except UnicodeDecodeError as error:
        raise _cannot_load(file, error) from error
    names = [port.name for port in inputs]

    def run(values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        results: list[NDArray[Any]] = runtime.run(None, dict(zip(names, values, strict=True)))
        return results

    return Network(metadata, inputs, outputs, run)


def _open_on_cuda(onnxruntime: Any, file: _ModelFile, threads: int | None) -> tuple[Any | None, str]:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None, "the installed onnxruntime has no CUDA provider (pip install onnxruntime-gpu)"
    problem = cuda_driver_problem()
    if problem is not None:
        return None, problem
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
    return None, "onnxruntime's CUDA provider does not load (are CUDA and cuDNN installed?)"


def _open(onnxruntime: Any, file: _ModelFile, threads: int | None, *providers: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
    # Waiting threads sleep: spinning ones take the cores from the decoder, the tracker and the other network.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        model = str(file.path) if file.content is None else file.content
        # No second try by onnxruntime itself: it prints on stdout, among the results of `--out -`.
        return onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
    except Exception as error:
        raise _cannot_load(file, error) from error


def _cannot_load(file: _ModelFile, error: Exception) -> ModelError:
    if isinstance(error, UnicodeDecodeError):
        return ModelError(f"{file.path}: is damaged: a name in it is no text in UTF-8")
    reason = reason_in(error)
    if any(words in reason for words in _NO_MODEL):
        reason = "is not an ONNX model, or is truncated or corrupt"
    return ModelError(f"{file.path}: cannot be loaded: {reason}")


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
    """Names of other files that hold the model's weights; not every onnxruntime keeps to the model's folder."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for entry in _LOCATION.finditer(data):
            length = entry[1][0] if len(entry[1]) == 1 else (entry[1][0] & 0x7F) + 128 * entry[1][1]
            yield data[entry.end() : entry.end() + length].decode("utf-8", "replace")


def _port(value: Any) -> Port:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return Port(value.name, shape, value.type.removeprefix("tensor(").removesuffix(")"))
