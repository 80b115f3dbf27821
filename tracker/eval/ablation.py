"""Ablation study: the same sequences tracked with parts of the tracker off, and scored.

USES is the study of Thoreau & Kottege, "Improving Online Multiple Object tracking with Deep Metric Learning", 2018,
https://arxiv.org/abs/1806.07592: the three uses of the metric, each alone, in pairs, and all, on two baselines: all the
rest of this tracker ("off"), and Kalman filter and IoU alone ("SORT"). RULES switches off one rule each, with all uses
on. A row is `track-eval --set ...` with the row's settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracker.eval import ablation_plot, report
from tracker.eval.replica_table import paired_rows
from tracker.eval.report import RATES, Row, TableRow, Value
from tracker.eval.track_and_score import (
    Job,
    Outcome,
    by_replica,
    combined,
    detect_all,
    run_jobs,
    threads_of,
    with_detections,
)
from tracker.runtime.processes import Failure

USES_OFF = {"association.veto": False, "association.reassociate": False, "proposals.verify": "off"}
A, B, C = {"association.veto": True}, {"association.reassociate": True}, {"proposals.verify": "appearance"}
ALL = A | B | C

# The paper's own baseline: high scores only, nothing is output for occluded people, the camera stands still.
SORT = {"association.min_iou_weak": 1.0, "occlusion.enabled": False, "motion.camera": False}

# Row -> the settings that it changes. Rows "SORT..." are compared with "SORT", the others with "off".
USES: dict[str, dict[str, Any]] = {
    "off": USES_OFF,
    "A": USES_OFF | A,
    "B": USES_OFF | B,
    "C": USES_OFF | C,
    "A+B": USES_OFF | A | B,
    "A+C": USES_OFF | A | C,
    "B+C": USES_OFF | B | C,
    "all": ALL,
    "all, verified by the detector": ALL | {"proposals.verify": "detector"},
    "SORT": USES_OFF | SORT,
    "SORT + A": USES_OFF | SORT | A,
    "SORT + B": USES_OFF | SORT | B,
    "SORT + C": USES_OFF | SORT | C,
    "SORT + all": ALL | SORT,
}

# Leave one out: each row switches off one rule, or sets its limit so wide that it never acts.
RULES: dict[str, dict[str, Any]] = {
    "all": {},
    "all - calibration by the scene": {"appearance.scene": False},
    "all - motion (A, B)": {"association.motion_weight": 0.0},
    "all - least probability (B)": {"association.least_posterior": 0.0},
    "all - memory after coasting (B)": {"lifecycle.lost_s": 0.0},
    "all - least likelihood ratio (C)": {"proposals.least_log_ratio": -100.0},
    "all - overlap limit (C)": {"proposals.max_overlap": 1.0},
    "all - time limit (C)": {"proposals.max_s": 1e4},
    "all - reuse of embeddings": {"appearance.refresh_s": 0.0},
    "all - low-score round": {"association.min_iou_weak": 1.0},  # no pair overlaps so much; C may use them
    "all - occlusion": {"occlusion.enabled": False},
    "all - completed boxes": {"occlusion.complete": 0.0},
    "all - time limit of occlusion": {"occlusion.max_s": 1e4},
    "all - camera motion": {"motion.camera": False},
    "all - noise by score": {"motion.score_noise": 0.0},
    "all - confirmation": {"lifecycle.confirm_hits": 1},
    "all - creation score": {"lifecycle.birth_score": 0.0},  # detection.strong_score remains
    "all - NMS": {"detection.nms_iou": 1.0},
}

LEGEND = (
    "off: Kalman filter and IoU; uses of the metric: A prevents switches, B re-associates, C proposes; "
    'all = A+B+C; "-" = without; SORT: off, without low scores, occluded people and camera motion'
)
MEASURES = ("HOTA", "MOTA", "IDF1", "IDs", "FP", "FN")  # that replicas are compared in
_NUMBERS = (*RATES, "IDs", "Frag", "FP", "FN")


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A line of the table: one sequence, or all of them combined, with the settings of one row."""

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
    """Track and score all sequences with all rows; the table in `folder` is updated after every run.

    So an interrupted study keeps the results of all finished runs. The picture is drawn at its end.
    jobs: one for each sequence or replica, as for a plain run; of replicas, the table has means and paired differences
    to the baseline row. settings: row -> settings that it changes; USES or RULES.
    Raises ConfigError for settings that a row cannot have.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], settings: Mapping[str, Mapping[str, Any]]) -> None:
        ablation_plot.check_matplotlib()
        self._names = list(settings)
        self._baseline = "off" if "off" in settings else "all"
        self._jobs = jobs
        self._runs = [
            (uses, at, _changed(job, uses, of, folder)) for uses, of in settings.items() for at, job in enumerate(jobs)
        ]
        self._csv, self._markdown, self._picture = (folder / f"ablation.{end}" for end in ("csv", "md", "png"))
        self.rows: Sequence[TableRow] = []
        self.note = LEGEND
        if jobs[0].replica is not None:
            self.note += (
                f'; mean of replicas, and "_diff": paired difference to "{self._baseline}" with its standard error, '
                "* beyond two"
            )
        elif jobs[0].tracking is not None and jobs[0].tracking.detector is not None:
            self.note += "; frames per second are without the detector, which ran once on every frame for all rows"

    @property
    def outputs(self) -> list[Path]:
        return [self._csv, self._markdown, self._picture, *(job.results for _, _, job in self._runs)]

    def run(self, n_jobs: int) -> list[tuple[str, Failure]]:
        """Track and score, `n_jobs` runs at a time; returns what failed."""
        detections, failures = detect_all(self._jobs, n_jobs)
        runs = [(uses, at, job) for uses, at, job in self._runs if at in detections]
        threads = threads_of(n_jobs, len(runs))
        jobs = [with_detections(job, detections[at], threads) for _, at, job in runs]

        def finished(outcomes: Mapping[int, Outcome]) -> None:
            self.rows = self._rows({runs[index][:2]: outcome for index, outcome in outcomes.items()})
            report.write_text(self._csv, report.as_csv(self.rows))
            report.write_text(self._markdown, f"{report.as_markdown(self.rows)}\n{self.note}\n")

        try:
            _, failed = run_jobs(jobs, n_jobs, finished)
        finally:
            if self.rows:
                self._draw()
        named = [(f"{jobs[index].name}, {runs[index][0]}", failure) for index, failure in failed.items()]
        return [(self._jobs[at].name, failure) for at, failure in failures.items()] + named

    def _rows(self, outcomes: Mapping[tuple[str, int], Outcome]) -> Sequence[TableRow]:
        tables = [self._table(outcomes, indices) for indices in by_replica(self._jobs)]
        return (
            tables[0]
            if self._jobs[0].replica is None
            else paired_rows(tables, MEASURES, lambda labels: (labels[0], self._baseline_of(labels[1])))
        )

    def _baseline_of(self, uses: str) -> str:
        return "SORT" if uses.startswith("SORT") else self._baseline

    def _table(self, outcomes: Mapping[tuple[str, int], Outcome], indices: Sequence[int]) -> list[StudyRow]:
        """Of the jobs with these indices: sequence by sequence, then all of them combined."""
        n = len(indices)
        rows = [_row(uses, [outcomes[uses, at]]) for at in indices for uses in self._names if (uses, at) in outcomes]
        for uses in self._names if n > 1 else ():
            of_row = [outcomes[uses, at] for at in indices if (uses, at) in outcomes]
            rows += [_row(uses, of_row, combined(of_row, n))] if of_row else []
        return rows

    def _draw(self) -> None:
        panels: dict[str, dict[str, Mapping[str, Any]]] = {}
        lines = [row.values() for row in self.rows]
        for line in sorted(lines, key=lambda line: line["sequence"] != "combined"):  # combined scores first
            sequence, uses = str(line["sequence"]), str(line["uses"])
            if not sequence.startswith("combined ("):  # of some sequences only: not comparable
                panels.setdefault(sequence, {})[uses] = line
        report.write_bytes(self._picture, ablation_plot.plot(panels, self._names, self._baseline, self.note))


def _changed(job: Job, uses: str, settings: Mapping[str, Any], folder: Path) -> Job:
    """The job with the settings of a row, and a result file of its own."""
    assert job.tracking is not None
    tracking = replace(job.tracking, config=job.tracking.config.override(dict(settings)))
    results = folder / re.sub(r"[^\w+-]", "", uses) / f"{job.name}.txt"
    return replace(job, results=results, tracking=tracking)


def _row(uses: str, outcomes: Sequence[Outcome], row: Row | None = None) -> StudyRow:
    """A row of one outcome, or of several that `row` combines."""
    n_frames = sum(one.tracked.n_frames for one in outcomes)
    n_crops = sum(one.tracked.n_crops for one in outcomes)
    n_proposed = sum(one.tracked.n_proposed for one in outcomes)
    return StudyRow(uses, row or outcomes[0].row, n_proposed, n_crops / n_frames)
