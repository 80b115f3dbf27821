"""Track several videos at once: in processes on this machine, or on a cluster through Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Protocol, Self

from tracker.commands.many.plan import Video
from tracker.errors import ConfigError
from tracker.runtime.signals import SLICE_S, check

SHUTDOWN_S = 5.0  # time for a process to write its results after SIGTERM
LOG_TAIL = 2000  # characters of the log that are searched for the reason of a failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one attempt at one video."""

    status: int  # exit status of the command; negative: the number of the signal that ended it
    seconds: float
    error: str  # "" or one line

    @property
    def good(self) -> bool:
        return self.status == 0


class Workers(Protocol):
    """Where videos are tracked. Call `submit` for each, then iterate `finished`; leaving `with` ends the rest."""

    def submit(self, video: Video, options: Sequence[str]) -> None: ...

    def finished(self) -> Iterator[tuple[Video, Outcome]]:
        """The outcomes, as they come; more videos may be submitted meanwhile."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class TrackProcesses:
    """Runs `track` on one video each, in child processes; one that crashes does not stop the others."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, video: Video, options: Sequence[str]) -> Outcome:
        """Track one video; the result gets its name once it is complete. Never raises because of the video."""
        start = perf_counter()
        try:
            video.out.parent.mkdir(parents=True, exist_ok=True)
            status = self._track(video, options)
            if status == 0:
                os.replace(video.part, video.out)
        except OSError as error:
            return Outcome(1, perf_counter() - start, f"{error.filename or video.out}: {error.strerror}")
        if status == 0:
            return Outcome(0, perf_counter() - start, "")
        return Outcome(status, perf_counter() - start, _reason(video.log, status))

    def stop(self) -> None:
        """End all children; each may finish its current frame."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SHUTDOWN_S)
            process.kill()

    def _track(self, video: Video, options: Sequence[str]) -> int:
        command = [sys.executable, "-m", "tracker.commands.track", str(video.source)]
        command += ["--out", str(video.part), "--overwrite"]
        with video.log.open("wb") as log:
            with self._lock:
                if self._stopped:
                    return 1
                # Its own session: only the parent gets Ctrl-C, and it ends its children.
                process = subprocess.Popen(
                    [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)


class LocalWorkers:
    """`n_jobs` videos at a time on this machine."""

    def __init__(self, n_jobs: int) -> None:
        self._processes = TrackProcesses()
        self._pool = ThreadPoolExecutor(n_jobs, thread_name_prefix="track-many")
        self._waiting: dict[Future[Outcome], Video] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._processes.stop()
        self._pool.shutdown(wait=True)

    def submit(self, video: Video, options: Sequence[str]) -> None:
        self._waiting[self._pool.submit(self._processes.run, video, list(options))] = video

    def finished(self) -> Iterator[tuple[Video, Outcome]]:
        while self._waiting:
            check()
            done, _ = wait(self._waiting, SLICE_S, return_when=FIRST_COMPLETED)
            for future in done:
                yield self._waiting.pop(future), future.result()


class RayWorkers:
    """Videos on the nodes of a Ray cluster. Videos and results must lie where every node finds them by the same path.

    address: of the cluster; "local" starts one here. threads: processor cores that a video takes.
    """

    def __init__(self, address: str, threads: int) -> None:
        """Raises ConfigError where Ray is not installed or the cluster does not answer."""
        try:
            import ray
        except ModuleNotFoundError:
            raise ConfigError("--ray needs Ray: pip install ray") from None
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ConfigError(f"--ray {address}: no cluster answers: {' '.join(str(error).split())}") from error
        # Ray itself restarts a task whose node is lost; other failures come back as outcomes.
        self._task = ray.remote(num_cpus=threads, max_retries=1)(_run_on_node)
        self._waiting: dict[Any, Video] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for reference in self._waiting:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference)
        self._ray.shutdown()

    def submit(self, video: Video, options: Sequence[str]) -> None:
        self._waiting[self._task.remote(video, list(options))] = video

    def finished(self) -> Iterator[tuple[Video, Outcome]]:
        while self._waiting:
            check()
            done, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=1.0)
            for reference in done:
                yield self._waiting.pop(reference), self._outcome(reference)

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(1, 0.0, f"its worker was lost: {' '.join(str(error).split())[:200]}")
        return outcome


def _run_on_node(video: Video, options: list[str]) -> Outcome:
    """Track one video, on a node of the cluster."""
    processes = TrackProcesses()
    try:
        return processes.run(video, options)
    except BaseException:  # a cancelled task ends its child
        processes.stop()
        raise


def _reason(log: Path, status: int) -> str:
    """The last error message of `track`, or how it ended."""
    with suppress(OSError):
        text = log.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
        messages = [line for line in text.splitlines() if line.startswith("track: ") and "warning" not in line]
        if status > 0 and messages:
            return messages[-1].removeprefix("track: ")
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}; see {log}"
