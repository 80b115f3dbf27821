"""Ablation study: the same sequences tracked with parts of the tracker off, and scored.

The first rows of USES are the study of Thoreau & Kottege, "Improving Online Multiple Object tracking with Deep Metric
Learning", 2018, https://arxiv.org/abs/1806.07592: the three uses of the metric, off, each alone, in pairs, and all.
The others switch off one more part each, with all uses on. A row is `track-eval --set ...` with the row's settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracker.eval import ablation_plot, report
from tracker.eval.report import RATES, Row, Value
from tracker.eval.track_and_score import Job, Outcome, combined, detect_all, run_jobs, threads_of, with_detections
from tracker.runtime.processes import Failure

USES_OFF = {"association.veto": False, "association.reassociate": False, "proposals.verify": "off"}
A, B, C = {"association.veto": True}, {"association.reassociate": True}, {"proposals.verify": "detector"}
ALL = A | B | C

# Row -> the settings that it changes. One more part to switch off is one more line.
USES: dict[str, dict[str, Any]] = {
    "Kalman + IoU": USES_OFF | {"association.appearance_weight": 0.0},
    "off": USES_OFF,
    "A": USES_OFF | A,
    "B": USES_OFF | B,
    "C": USES_OFF | C,
    "A+B": USES_OFF | A | B,
    "A+C": USES_OFF | A | C,
    "B+C": USES_OFF | B | C,
    "all": ALL,
    "all - appearance cost": ALL | {"association.appearance_weight": 0.0},
    "all - overlap cost": ALL | {"association.appearance_weight": 1.0},  # overlap still gates
    "all - low-score round": ALL | {"association.min_iou_weak": 1.0},  # no pair overlaps so much; C may use them
    "all - occluded tracks": ALL | {"occlusion.enabled": False},
    "all - camera motion": ALL | {"motion.camera": False},
}

# Leave one out: each row switches off one rule, or sets its limit so wide that it never acts.
RULES: dict[str, dict[str, Any]] = {
    "all": {},
    "all - veto (A)": {"association.veto": False},
    "all - exchange of two pairs (A)": {"association.swap_gain": 4.0},
    "all - re-association (B)": {"association.reassociate": False},
    "all - second-best ratio (B)": {"association.second_best_ratio": 1.0},
    "all - motion gate (B)": {"association.relink_chi2": 1e9},
    "all - height ratio (B)": {"association.min_height_ratio": 0.0, "association.max_height_ratio": 1e9},
    "all - proposals (C)": {"proposals.verify": "off"},
    "all - detector (C)": {"proposals.verify": "appearance"},
    "all - first look (C)": {"proposals.first_look": 1e9},
    "all - background control (C)": {"proposals.background_margin": 0.0},
    "all - stricter threshold (C)": {"proposals.accept_scale": 1.0},
    "all - overlap limit (C)": {"proposals.max_overlap": 1.0},
    "all - least gallery": {"association.min_gallery": 1},
    "all - appearance cost": {"association.appearance_weight": 0.0},
    "all - least crop height": {"appearance.min_height_px": 0.0},
    "all - clean gallery": {"appearance.max_cover": 1.0},
    "all - reuse of embeddings": {"appearance.refresh_s": 0.0},
    "all - low-score round": {"association.min_iou_weak": 1.0},
    "all - occlusion": {"occlusion.enabled": False},
    "all - occlusion: completed boxes": {"occlusion.complete": 0.0},
    "all - occlusion: position limit": {"occlusion.max_std": 1e9},
    "all - occlusion: height limit": {"occlusion.max_jitter": 10.0},
    "all - occlusion: least hits": {"occlusion.min_hits": 1},
    "all - occlusion: time limit": {"occlusion.max_s": 1e4},
    "all - occlusion: duplicate limit": {"occlusion.max_overlap": 1.0},
    "all - camera motion": {"motion.camera": False},
    "all - noise by score": {"motion.score_noise": 0.0},
    "all - noise of proposals": {"motion.proposal_noise": 1.0},
    "all - confirmation": {"lifecycle.confirm_hits": 1},
    "all - creation score": {"lifecycle.birth_score": 0.0},  # detection.strong_score remains
    "all - memory after coasting": {"lifecycle.lost_s": 0.0},
    "all - NMS": {"detection.nms_iou": 1.0},
}

LEGEND = 'uses of the metric: A prevents switches (veto), B re-associates, C proposes; all = A+B+C; "-" = without'
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
    """Track and score all sequences with all rows; the table and the picture in `folder` are updated after every run.

    So an interrupted study keeps the results of all finished runs.
    jobs: one for each sequence, as for a plain run. settings: row -> settings that it changes; USES or RULES.
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
        detections, failures = detect_all(self._jobs, n_jobs)
        runs = [(uses, at, job) for uses, at, job in self._runs if at in detections]
        threads = threads_of(n_jobs, len(runs))
        jobs = [with_detections(job, detections[at], threads) for _, at, job in runs]

        def finished(outcomes: Mapping[int, Outcome]) -> None:
            self.rows = self._rows({runs[index][:2]: outcome for index, outcome in outcomes.items()})
            self._save()

        _, failed = run_jobs(jobs, n_jobs, finished)
        named = [(f"{jobs[index].sequence.name}, {runs[index][0]}", failure) for index, failure in failed.items()]
        return [(self._jobs[at].sequence.name, failure) for at, failure in failures.items()] + named

    def _rows(self, outcomes: Mapping[tuple[str, int], Outcome]) -> list[StudyRow]:
        """Sequence by sequence, then all of them combined."""
        n = len(self._jobs)
        rows = [_row(uses, [outcomes[uses, at]]) for at in range(n) for uses in self._names if (uses, at) in outcomes]
        for uses in self._names if n > 1 else ():
            of_row = [outcomes[uses, at] for at in range(n) if (uses, at) in outcomes]
            rows += [_row(uses, of_row, combined(of_row, n))] if of_row else []
        return rows

    def _save(self) -> None:
        report.write_text(self._csv, report.as_csv(self.rows))
        report.write_text(self._markdown, f"{report.as_markdown(self.rows)}\n{self.note}\n")
        panels: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in sorted(self.rows, key=lambda row: row.row.name != "combined"):  # combined scores first
            if not row.row.name.startswith("combined ("):  # of some sequences only: not comparable
                panels.setdefault(row.row.name, {})[row.uses] = row.row.values()
        title = "What each part of the tracker is worth"
        report.write_bytes(self._picture, ablation_plot.plot(panels, self._names, self._baseline, title, self.note))


def _changed(job: Job, uses: str, settings: Mapping[str, Any], folder: Path) -> Job:
    """The job with the settings of a row, and a result file of its own."""
    assert job.tracking is not None
    tracking = replace(job.tracking, config=job.tracking.config.override(dict(settings)))
    results = folder / re.sub(r"[^\w+-]", "", uses) / f"{job.sequence.name}.txt"
    return replace(job, results=results, tracking=tracking)


def _row(uses: str, outcomes: Sequence[Outcome], row: Row | None = None) -> StudyRow:
    """A row of one outcome, or of several that `row` combines."""
    n_frames = sum(one.tracked.n_frames for one in outcomes)
    n_crops = sum(one.tracked.n_crops for one in outcomes)
    n_proposed = sum(one.tracked.n_proposed for one in outcomes)
    return StudyRow(uses, row or outcomes[0].row, n_proposed, n_crops / n_frames)
