"""Runs tasks side by side: in processes of this machine, or on a cluster through Ray. The task is the same."""

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

END_S = 5.0  # time a process has to write what it has, after it was told to end
LAST_LINES = 2000  # characters of the log that are searched for the reason of a failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt."""

    status: int  # of the command; 0 is good, negative: the number of the signal that ended it
    seconds: float
    error: str  # "" or one line

    @property
    def good(self) -> bool:
        return self.status == 0


class Workers(Protocol):
    """Where tasks run. `submit` as often as you like, then take what `finished` gives; `with` ends what still runs."""

    def submit(self, video: Video, options: Sequence[str]) -> None: ...

    def finished(self) -> Iterator[tuple[Video, Outcome]]:
        """Everything submitted, as it ends; more may be submitted meanwhile."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Processes:
    """Children that are run by `track` on one video each, of which one that dies takes nobody along."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, video: Video, options: Sequence[str]) -> Outcome:
        """Track one video; the result appears under its name once it is whole. Never raises for the video's sake."""
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
        """Ends all children; each may finish the frame at hand."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()

    def _track(self, video: Video, options: Sequence[str]) -> int:
        command = [
            sys.executable,
            "-m",
            "tracker.commands.track",
            str(video.source),
            "--out",
            str(video.part),
            "--overwrite",
        ]
        with video.log.open("wb") as log:
            with self._lock:
                if self._stopped:
                    return 1
                # A session of its own: Ctrl-C reaches the parent alone, which ends its children in order.
                process = subprocess.Popen(
                    [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)


class Local:
    """`n_jobs` videos at a time on this machine."""

    def __init__(self, n_jobs: int) -> None:
        self._processes = Processes()
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


class Ray:
    """Videos on the nodes of a Ray cluster. Videos and results must lie where every node finds them by the same path.

    address: of the cluster; "local" starts one here. threads: processor cores that a video takes.
    """

    def __init__(self, address: str, threads: int) -> None:
        """Raises ConfigError where Ray is not installed or the cluster does not answer."""
        try:
            import ray
        except ModuleNotFoundError:
            raise ConfigError("--ray needs Ray, an extra: pip install 'tracklet[ray]'") from None
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ConfigError(f"--ray {address}: no cluster answers: {' '.join(str(error).split())}") from error
        # A task that its node lost is started again by Ray itself; what fails here comes back as an outcome.
        self._task = ray.remote(num_cpus=threads, max_retries=1)(_run_on_node)
        self._waiting: dict[Any, Video] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for reference in self._waiting:
            with suppress(Exception):  # of a cluster that is gone
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
    """What a node does with one task."""
    processes = Processes()
    try:
        return processes.run(video, options)
    except BaseException:  # a task that is cancelled takes its child along
        processes.stop()
        raise


def _reason(log: Path, status: int) -> str:
    """The line in which `track` said what is wrong, or what ended it."""
    with suppress(OSError):
        text = log.read_bytes()[-LAST_LINES:].decode("utf-8", "replace")
        said = [line for line in text.splitlines() if line.startswith("track: ") and "warning" not in line]
        if status > 0 and said:
            return said[-1].removeprefix("track: ")
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}; see {log}"
