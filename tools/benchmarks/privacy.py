"""How many annotated people `track --blur` hides: shares of the ground-truth boxes whose head or body is covered.

    python -m tools.benchmarks.privacy MOT16/train/MOT16-09
    python -m tools.benchmarks.privacy MOT15/train/PETS09-S2L1 --video vtest.avi --detections public

A person counts where at least 30 % of the box is visible: by the ground truth, or where it does not say, what is not
behind a box with a lower edge. The head is taken to be the upper sixth and middle half of the box. Covered: 95 % of the
pixels. Prints for each mode the shares of heads and bodies, and how much
of the picture is hidden on average. "boxes": the tracks' boxes of the same frame alone, which is what a blur without
margins would hide. "live": no frame waits for later ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tracker.build import open_pipeline
from tracker.eval.mot_files import read_ground_truth
from tracker.sinks.blur import PARTS, areas_of, covered, with_people_around
from tracker.types import BoolArray, FloatArray, Frame, Tracks

VISIBLE = 0.3
COVERED = 0.95
HEAD_HIGH, HEAD_WIDE = 1 / 6, 1 / 2
GRID = 20  # points across a box, for its visible share


def visible_share(boxes: FloatArray) -> FloatArray:
    """(N,) share of each box (N, 4) that no box with a lower edge covers."""
    steps = (np.arange(GRID) + 0.5) / GRID
    shares = np.ones(len(boxes))
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        x, y = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
        hidden = np.zeros((GRID, GRID), bool)
        for left, top, right, bottom in boxes[boxes[:, 3] > y2]:
            hidden |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
        shares[i] = 1 - hidden.mean()
    return shares


def people_to_hide(path: Path) -> dict[int, FloatArray]:
    """(N, 4) xyxy boxes of the people that count, pixels from 0, by the index of the frame."""
    truth = read_ground_truth(path)
    table = np.loadtxt(path, delimiter=",", ndmin=2)
    people = {}
    for number in np.unique(truth.table.frame).tolist():
        rows = truth.counts & (truth.table.frame == number)
        boxes = truth.table.boxes[rows] - 1
        shares = table[rows, 8] if table.shape[1] == 9 else visible_share(boxes)
        people[number - 1] = boxes[shares >= VISIBLE]
    return people


def is_covered(mask: BoolArray, x1: float, y1: float, x2: float, y2: float) -> bool:
    """Whether the mask (H, W) covers what of the rectangle lies in the picture."""
    left, top, right, bottom = (max(0, round(side)) for side in (x1, y1, x2, y2))
    part = mask[top:bottom, left:right]
    return part.size == 0 or float(part.mean()) >= COVERED


def shares(seen: Sequence[tuple[Frame, FloatArray]], people: dict[int, FloatArray], part: str) -> tuple[float, ...]:
    """Percent of heads and bodies covered, and of the picture hidden."""
    heads, bodies, hidden = [], [], []
    for frame, boxes in seen:
        mask = np.zeros((frame.height, frame.width), bool)
        for _, of_block in covered(areas_of(boxes, part), frame.width, frame.height):
            mask |= of_block > 0
        hidden.append(float(mask.mean()))
        for x1, y1, x2, y2 in people.get(frame.index, np.zeros((0, 4))).tolist():
            inset, chin = (x2 - x1) * (1 - HEAD_WIDE) / 2, y1 + HEAD_HIGH * (y2 - y1)
            heads.append(is_covered(mask, x1 + inset, y1, x2 - inset, chin))
            bodies.append(is_covered(mask, x1, y1, x2, y2))
    return 100 * float(np.mean(heads)), 100 * float(np.mean(bodies)), 100 * float(np.mean(hidden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", type=Path, help="MOT sequence folder with gt/gt.txt")
    parser.add_argument("--video", help="the frames, where the folder has none")
    parser.add_argument("--detections", metavar="FILE", help="as in track; 'public': the sequence's det/det.txt")
    args = parser.parse_args()
    detections = str(args.sequence / "det" / "det.txt") if args.detections == "public" else args.detections
    people = people_to_hide(args.sequence / "gt" / "gt.txt")
    pipeline = open_pipeline(args.video or str(args.sequence), detections=detections)
    tracked: list[tuple[Frame, Tracks]] = []
    near: dict[int, FloatArray] = {}
    for frame, tracks in pipeline:
        tracked.append((Frame(frame.index, frame.time_s, None, frame.width, frame.height), tracks))
        near[frame.index] = pipeline.possible_people
    pipeline.close()

    def around(live: bool) -> Iterator[tuple[Frame, FloatArray]]:
        for frame, _, boxes in with_people_around(tracked, lambda frame, _: near[frame.index], live):
            yield frame, boxes

    ways = {
        "boxes": [(frame, tracks.xyxy) for frame, tracks in tracked],
        "live": list(around(True)),
        "file": list(around(False)),
    }
    print(f"{sum(map(len, people.values()))} boxes of people in {len(tracked)} frames")
    print(f"{'--blur':<8}{'way':<8}{'heads':>8}{'bodies':>8}{'picture':>9}")
    for part in PARTS:
        for name, seen in ways.items():
            heads, bodies, hidden = shares(seen, people, part)
            print(f"{part:<8}{name:<8}{heads:>7.2f}%{bodies:>7.2f}%{hidden:>8.1f}%", flush=True)


if __name__ == "__main__":
    main()
