"""Results on ignored ground-truth boxes count neither as true nor as false positives."""

from __future__ import annotations

import numpy as np

from tracker.eval.mot_files import BoxTable, GroundTruth
from tracker.eval.preprocess import matched_to_ignored, prepare

HERE = [0.0, 0.0, 10.0, 20.0]
NEAR = [0.0, 0.0, 10.0, 16.0]  # IoU 0.8 with HERE
HALF = [0.0, 0.0, 10.0, 10.0]  # IoU 0.5 with HERE
LESS = [0.0, 0.0, 10.0, 9.9]
FAR = [50.0, 0.0, 60.0, 20.0]


def table(*boxes, frame=1):
    n = len(boxes)
    return BoxTable(np.full(n, frame), np.arange(n), np.array(boxes, dtype=float).reshape(n, 4))


def test_results_on_ignored_boxes_are_dropped():
    # truth boxes with "p" person, "d" distractor, "c" car that costs; results; dropped
    cases = [
        ([(HERE, "d")], [HERE], [True]),
        ([(HERE, "d")], [HALF], [True]),
        ([(HERE, "d")], [LESS], [False]),
        ([(HERE, "p")], [HERE], [False]),
        ([(HERE, "c")], [HERE], [False]),
        ([(HERE, "p"), (NEAR, "d")], [HERE], [False]),  # one result, the person takes it
        ([(HERE, "p"), (NEAR, "d")], [HERE, NEAR], [False, True]),
        ([(HERE, "d")], [HERE, NEAR], [True, False]),  # one to one: the second result still costs
        ([(HERE, "d"), (FAR, "p")], [], []),
    ]
    for truth, results, dropped in cases:
        kinds = np.array([kind for _, kind in truth])
        gt = GroundTruth(table(*(box for box, _ in truth)), kinds == "p", kinds == "d")
        assert matched_to_ignored(gt, table(*results)).tolist() == dropped, (truth, results)


def test_frames_are_independent_and_only_counted_people_remain():
    gt = GroundTruth(table(HERE, FAR), np.array([False, True]), np.array([True, False]))
    people, results = prepare(gt, table(HERE, frame=2))
    assert len(results) == 1
    np.testing.assert_array_equal(people.boxes, [FAR])
