"""Track sequences as `track` does, and score them, several at a time in processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from tracker.config import TrackerConfig
from tracker.eval import clear_identity, hota
from tracker.eval.mot_files import MotFileError, check_frames, read_ground_truth, read_results
from tracker.eval.preprocess import prepare
from tracker.eval.replicas import Replica, ReplicaDetector, ReplicaSource
from tracker.eval.report import Row
from tracker.eval.sequences import INFO, TRUTH, info_of, length_of
from tracker.runtime.processes import Advanced, Done, Failure, run_all, share_of_cores

if TYPE_CHECKING:
    from tracker.detector.base import Detector, DetectorBase
    from tracker.sources.base import FrameSource
    from tracker.types import Detections, Frame

Result = TypeVar("Result")


@dataclass(slots=True)
class CachedDetections:
    """A detector that returns detections computed before.

    second_look: the detector that use C runs on windows of a frame, which cannot be computed before; see `Detector`.
    """

    name: str
    frames: Mapping[int, Detections]  # by index
    second_look: Detector | None = None

    def detect(self, frame: Frame) -> Detections:
        return self.frames[frame.index]


@dataclass(frozen=True, slots=True)
class Tracking:
    """How sequences are tracked; the options of `track`."""

    config: TrackerConfig
    detections: str  # file inside each sequence folder; not used if there is a detector
    detector: str | CachedDetections | None  # a network, as `track --detector` names it, or its detections
    reid: str | None
    device: str
    threads: int | None = None  # for each network; None: all cores
    detector_size: int | None = None  # long side of the detector's input; None: by the size of the frames
    layout: str = "auto"  # of its output
    classes: tuple[str | int, ...] = ("person",)  # that the detector keeps
    second_look: str | None = None  # network that made `CachedDetections`; use C still runs it on windows


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence: tracked first if `tracking` is given, then scored."""

    sequence: Path
    results: Path
    tracking: Tracking | None
    video: str | None  # frames of a sequence without images
    needs_truth: bool  # False: a sequence without ground truth (a test sequence of MOTChallenge) is not scored
    replica: Replica | None = None  # track this replica of the sequence; results are in coordinates of the sequence

    @property
    def name(self) -> str:
        """For messages; of a replica, the name of its result file."""
        return self.sequence.name if self.replica is None else f"{self.replica.seed}/{self.sequence.name}"


@dataclass(frozen=True, slots=True)
class Tracked:
    """Run statistics of one tracked sequence."""

    n_frames: int = 0
    seconds: float = 0.0  # reading of images included
    n_crops: int = 0  # embedded
    n_proposed: int = 0  # boxes that use C added
    verify: str | None = None  # see `Pipeline.verify`; None: nothing was tracked

    @property
    def fps(self) -> float | None:
        return self.n_frames / self.seconds if self.n_frames else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores and run statistics of one job."""

    row: Row
    tracked: Tracked


def run_jobs(
    jobs: Sequence[Job], n_jobs: int, finished: Callable[[Mapping[int, Outcome]], None] = lambda _: None
) -> tuple[dict[int, Outcome], dict[int, Failure]]:
    """Outcomes of the jobs that have one and failures of the others, by index; progress on a terminal.

    finished: called with all outcomes so far after each job.
    """
    what = "sequences" if len({job.sequence for job in jobs}) == len(jobs) else "runs"
    return _run_all(evaluate_sequence, jobs, n_jobs, what, finished)


def detect_all(jobs: Sequence[Job], n_jobs: int) -> tuple[dict[int, CachedDetections | None], dict[int, Failure]]:
    """Detections of each sequence by the detector (None if a detection file is used), and failures, by index."""
    if not any(job.tracking is not None and job.tracking.detector for job in jobs):
        return dict.fromkeys(range(len(jobs))), {}
    found, failures = _run_all(detect_sequence, jobs, n_jobs, "sequences through the detector", lambda _: None)
    return dict(found), failures


def with_detections(job: Job, detections: CachedDetections | None, threads: int | None) -> Job:
    """The job with the detections of its network; use C still runs the network on windows."""
    assert job.tracking is not None
    network = job.tracking.detector
    assert not isinstance(network, CachedDetections)
    return replace(job, tracking=replace(job.tracking, detector=detections, threads=threads, second_look=network))


def _run_all(
    work: Callable[[Job, Advanced], Result],
    jobs: Sequence[Job],
    n_jobs: int,
    what: str,
    finished: Callable[[Mapping[int, Result]], None],
) -> tuple[dict[int, Result], dict[int, Failure]]:
    from tqdm import tqdm

    tracked = [length_of(job.sequence) for job in jobs if job.tracking is not None]
    total = sum(filter(None, tracked)) if all(tracked) else None
    results: dict[int, Result] = {}
    failures: dict[int, Failure] = {}
    hidden = not (tracked and sys.stderr.isatty())
    with tqdm(total=total, unit=" frames", disable=hidden, dynamic_ncols=True) as bar:
        for index, outcome in run_all(work, jobs, min(n_jobs, len(jobs)), bar.update):
            if isinstance(outcome, Done):
                results[index] = outcome.result
                finished(results)
            else:
                failures[index] = outcome
            bar.set_postfix_str(f"{len(results) + len(failures)} of {len(jobs)} {what}")
    return dict(sorted(results.items())), dict(sorted(failures.items()))


def evaluate_sequence(job: Job, advanced: Advanced) -> Outcome:
    """Track if the job says so, score if there is ground truth. Raises TrackletError, which names the file."""
    truth_path = job.sequence / TRUTH
    tracked = Tracked() if job.tracking is None else _track(job, job.tracking, advanced)
    results = read_results(job.results)
    length = length_of(job.sequence)
    check_frames(job.results, results, length)
    if not (job.needs_truth or truth_path.is_file()):
        return Outcome(Row(job.sequence.name, fps=tracked.fps, verify=tracked.verify), tracked)
    truth = read_ground_truth(truth_path)
    check_frames(truth_path, truth.table, length)
    if job.replica is not None:
        truth = job.replica.truth(truth)
    pair = prepare(truth, results)
    row = Row(job.sequence.name, clear_identity.evaluate(*pair), hota.evaluate(*pair), tracked.fps, tracked.verify)
    return Outcome(row, tracked)


def detect_sequence(job: Job, advanced: Advanced) -> CachedDetections:
    """Detections of every frame by the job's detector."""
    from tracker.sources.prefetch import Prefetch

    tracking = job.tracking
    assert tracking is not None
    assert isinstance(tracking.detector, str)
    _check_info(job)
    with closing(_open_source(job)) as source:
        if not source.has_images:
            raise MotFileError("no images to find people in; give detections with --det FILE")
        detector = _open_detector(tracking.detector, tracking)
        found = {}
        for frame in Prefetch(source):
            found[frame.index] = detector.detect(frame)
            advanced(1)
    return CachedDetections(detector.name, found)


def by_replica(jobs: Sequence[Job]) -> list[list[int]]:
    """Indices of the jobs of each replica; one list if there are no replicas."""
    groups: dict[Replica | None, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.replica, []).append(index)
    return list(groups.values())


def combined(outcomes: Sequence[Outcome], n_jobs: int) -> Row:
    """Several sequences as one row; its name says if some of the `n_jobs` are missing."""
    rows = [one.row for one in outcomes]
    clear = [row.clear for row in rows if row.clear is not None]
    seconds = sum(one.tracked.seconds for one in outcomes)
    verify = {one.tracked.verify for one in outcomes}
    return Row(
        "combined" if len(clear) in (0, n_jobs) else f"combined ({len(clear)} of {n_jobs})",
        clear_identity.combine(clear) if clear else None,
        hota.combine(row.hota for row in rows if row.hota is not None) if clear else None,
        sum(one.tracked.n_frames for one in outcomes) / seconds if seconds else None,
        verify.pop() if len(verify) == 1 else None,
    )


def grouped(failures: Sequence[tuple[str, Failure]]) -> list[str]:
    """One line per mistake: a network that cannot be loaded fails every sequence with the same message."""
    names: dict[str, list[str]] = {}
    for name, failure in failures:
        names.setdefault(failure.text, []).append(name)
    return [f"{', '.join(of)}: {text}" for text, of in names.items()]


def threads_of(n_jobs: int, n_items: int) -> int | None:
    """Threads of each network if `n_items` run, `n_jobs` at a time; None: all cores."""
    return share_of_cores(min(n_jobs, n_items))


def _track(job: Job, tracking: Tracking, advanced: Advanced) -> Tracked:
    """Run the tracker as a user would. The result file appears only when it is complete."""
    from tracker.build import open_pipeline  # here: scoring result files needs no tracker
    from tracker.sinks.mot_txt import MotTextSink

    _check_info(job)
    unfinished = job.results.with_name(job.results.name + ".part")
    detector: str | Detector | DetectorBase | None = tracking.detector
    if isinstance(detector, CachedDetections) and tracking.second_look is not None:
        network = _open_detector(tracking.second_look, tracking)
        detector = replace(detector, second_look=network.second_look)
    detections = job.sequence / tracking.detections if tracking.detector is None else None
    source: str | Path | FrameSource = job.video or job.sequence
    if job.replica is not None:
        source = _open_source(job)
        detector = _of_replica(job.replica, tracking, detector, detections, source.has_images)
        detections = None
    n_proposed, start = 0, perf_counter()
    try:
        with MotTextSink(unfinished, overwrite=True) as sink, closing(
            open_pipeline(
                source,
                detections=detections,
                detector=detector,
                classes=tracking.classes,
                detector_size=tracking.detector_size if isinstance(detector, str) else None,
                layout=tracking.layout if isinstance(detector, str) else "auto",
                reid=tracking.reid, config=tracking.config, device=tracking.device, fps=_fps(job),
                threads=tracking.threads,
            )
        ) as pipeline:  # fmt: skip
            for frame, tracks in pipeline:
                sink.write(frame, tracks if job.replica is None else job.replica.results(tracks, frame.width))
                n_proposed += int(tracks.proposed.sum())
                advanced(1)
        seconds = perf_counter() - start
        os.replace(unfinished, job.results)
    finally:
        unfinished.unlink(missing_ok=True)
    return Tracked(pipeline.n_frames, seconds, pipeline.n_crops, n_proposed, pipeline.verify)


def _open_detector(name: str, tracking: Tracking) -> DetectorBase:
    from tracker.detector.open import open_detector

    return open_detector(
        model=name, classes=tracking.classes, size=tracking.detector_size, layout=tracking.layout,
        device=tracking.device, threads=tracking.threads,
    )  # fmt: skip


def _of_replica(
    replica: Replica,
    tracking: Tracking,
    detector: str | Detector | DetectorBase | None,
    detections: Path | None,
    has_images: bool,
) -> DetectorBase:
    from tracker.detector.open import PERSON, open_detector
    from tracker.detector.verified import VerifiedDetections

    if detections is not None:
        replayed = ReplicaDetector(open_detector(detections=detections), replica, of_video=True)
        if not (tracking.config.proposals.by_detector and has_images and tracking.reid is not None):
            return replayed
        return VerifiedDetections(replayed, _open_detector(PERSON, tracking))
    assert detector is not None
    opened = _open_detector(detector, tracking) if isinstance(detector, str) else detector
    return ReplicaDetector(opened, replica, of_video=False)


def _open_source(job: Job) -> FrameSource:
    from tracker.sources.open import open_source

    source = open_source(job.video or job.sequence, fps=_fps(job))
    return source if job.replica is None else ReplicaSource(source, job.replica)


def _check_info(job: Job) -> None:
    if job.video is None and not (job.sequence / INFO).is_file():
        raise MotFileError(f"{job.sequence / INFO}: no such file")


def _fps(job: Job) -> float | None:
    """The frame rate of a video file is that of its sequence."""
    return info_of(job.sequence, "frameRate") if job.video else None
