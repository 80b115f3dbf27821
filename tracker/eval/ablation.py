"""What each part of the tracker is worth: the same sequences, tracked with parts of it off.

The first rows are the study of Thoreau & Kottege, "Improving Online Multiple Object tracking with Deep Metric
Learning", 2018, https://arxiv.org/abs/1806.07592: the three uses of the metric, off, each alone, in pairs, and all.
The others switch off one more part each, with all uses on. A row is `track-eval --set ...` with the row's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracker.eval import ablation_plot as bars
from tracker.eval import report
from tracker.eval.report import RATES, Row, Value
from tracker.eval.track_and_score import Job, Outcome, combined, detect_all, run_jobs, threads_of
from tracker.runtime.processes import Failure

USES_OFF = {"association.veto": False, "association.reassociate": False, "proposals.enabled": False}
A, B, C = {"association.veto": True}, {"association.reassociate": True}, {"proposals.enabled": True}
ALL = A | B | C
BASELINE = "off"

# Row -> the settings that it changes. A part that can be switched off is one more line here.
ROWS: dict[str, dict[str, Any]] = {
    "Kalman + IoU": USES_OFF | {"association.appearance_weight": 0.0},
    BASELINE: USES_OFF,
    "A": USES_OFF | A,
    "B": USES_OFF | B,
    "C": USES_OFF | C,
    "A+B": USES_OFF | A | B,
    "A+C": USES_OFF | A | C,
    "B+C": USES_OFF | B | C,
    "all": ALL,
    "all - appearance cost": ALL | {"association.appearance_weight": 0.0},
    "all - overlap cost": ALL | {"association.appearance_weight": 1.0},  # overlap still gates
    "all - weak round": ALL | {"association.min_iou_weak": 1.0},  # nothing overlaps that much; C may still use them
    "all - hidden tracks": ALL | {"occlusion.enabled": False},
    "all - camera motion": ALL | {"motion.camera": False},
}

LEGEND = 'uses of the metric: A prevents switches (veto), B re-associates, C proposes; all = A+B+C; "-" = without'
_NUMBERS = (*RATES, "IDs", "Frag", "FP", "FN")


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A line of the study: one sequence, or all of them, under one set of settings."""

    uses: str
    row: Row
    n_proposed: int
    crops_per_frame: float

    def values(self) -> dict[str, Value]:
        """Column -> number, not rounded."""
        scores = self.row.values()
        found: dict[str, Value] = {"sequence": self.row.name, "uses": self.uses}
        found |= {name: scores[name] for name in _NUMBERS}
        return found | {"proposed": self.n_proposed, "crops/frame": self.crops_per_frame, "fps": self.row.fps}


class Study:
    """All rows of all sequences: tracks them, and keeps the table and the picture in `folder` up to date.

    jobs: one for each sequence, as for a plain run. Files are replaced whenever a run has ended, so whatever breaks
    off the study, they hold what was finished until then. Raises ConfigError for settings that a row cannot have.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._runs = [(uses, at, job) for uses in ROWS for at, job in enumerate(_under(uses, folder, jobs))]
        self._csv, self._markdown, self._picture = (folder / f"ablation.{end}" for end in ("csv", "md", "png"))
        self.rows: list[StudyRow] = []
        self.note = LEGEND
        tracking = jobs[0].tracking
        if tracking is not None and tracking.detector is not None:
            self.note += "; frames per second are without the detector, which ran once on every frame for all rows"

    @property
    def outputs(self) -> list[Path]:
        return [self._csv, self._markdown, self._picture, *(job.results for _, _, job in self._runs)]

    def run(self, n_jobs: int) -> list[tuple[str, Failure]]:
        """Track and score, `n_jobs` runs at a time; returns what failed."""
        detectors, failures = detect_all(self._jobs, n_jobs)
        runs = [(uses, at, job) for uses, at, job in self._runs if at in detectors]
        threads = threads_of(n_jobs, len(runs))
        jobs = []
        for _, at, job in runs:
            assert job.tracking is not None
            asked = job.tracking.detector
            tracking = replace(
                job.tracking,
                detector=detectors[at],
                threads=threads,
                second_look=asked if isinstance(asked, str) else None,
            )
            jobs.append(replace(job, tracking=tracking))

        def finished(outcomes: Mapping[int, Outcome]) -> None:
            self.rows = self._rows({runs[index][:2]: outcome for index, outcome in outcomes.items()})
            self._save()

        _, failed = run_jobs(jobs, n_jobs, finished)
        named = [(f"{jobs[index].sequence.name}, {runs[index][0]}", failure) for index, failure in failed.items()]
        return [(self._jobs[at].sequence.name, failure) for at, failure in failures.items()] + named

    def _rows(self, outcomes: Mapping[tuple[str, int], Outcome]) -> list[StudyRow]:
        """Sequence by sequence, then all of them combined."""
        rows = []
        for at in range(len(self._jobs)):
            rows += [_row(uses, [outcomes[uses, at]]) for uses in ROWS if (uses, at) in outcomes]
        if len(self._jobs) > 1:
            for uses in ROWS:
                of_row = [outcomes[uses, at] for at in range(len(self._jobs)) if (uses, at) in outcomes]
                rows += [_row(uses, of_row, combined(of_row, len(self._jobs)))] if of_row else []
        return rows

    def _save(self) -> None:
        report.write_text(self._csv, report.as_csv(self.rows))
        report.write_text(self._markdown, f"{report.as_markdown(self.rows)}\n{self.note}\n")
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in self.rows:
            if not row.row.name.startswith("combined ("):  # of some sequences alone: not to be compared
                found.setdefault(row.row.name, {})[row.uses] = row.row.values()
        panels = [bars.Panel(title, of_title) for title, of_title in found.items()]
        if "combined" in found:
            panels = panels[-1:] + panels[:-1]  # first
        image = bars.draw(panels, list(ROWS), BASELINE, "What each part of the tracker is worth", LEGEND)
        report.write_bytes(self._picture, bars.as_png(image))


def _under(uses: str, folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """The same jobs with the settings of a row, and results of their own."""
    changed = []
    for job in jobs:
        assert job.tracking is not None
        tracking = replace(job.tracking, config=job.tracking.config.override(ROWS[uses]))
        results = folder / uses.replace(" ", "") / f"{job.sequence.name}.txt"
        changed.append(replace(job, results=results, tracking=tracking))
    return changed


def _row(uses: str, outcomes: Sequence[Outcome], row: Row | None = None) -> StudyRow:
    """A row of one outcome, or of several that `row` combines."""
    n_frames = sum(one.tracked.n_frames for one in outcomes)
    n_crops = sum(one.tracked.n_crops for one in outcomes)
    n_proposed = sum(one.tracked.n_proposed for one in outcomes)
    return StudyRow(uses, row or outcomes[0].row, n_proposed, n_crops / n_frames)
