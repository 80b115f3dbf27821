"""Replay of MOT detection files: 1-based frames and pixels, scores to [0, 1], errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.detector.public import PublicDetections, scores_to_unit
from tracker.errors import DetectionError
from tracker.types import Frame


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "det.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_text


def test_frames_and_pixels_of_the_file_count_from_one(write):
    dets = PublicDetections(write("1,-1,1,1,10,20,0.9,-1,-1,-1\n3,-1,11.5,21,4,8,0.25,-1,-1,-1\n"))
    first = dets.detect(Frame(0, 0.0, None, 100, 100))
    np.testing.assert_array_equal(first.boxes, [[0, 0, 10, 20]])
    np.testing.assert_array_equal(first.scores, [0.9])
    assert len(dets.at(1)) == 0
    assert dets.at(1).boxes.shape == (0, 4)
    np.testing.assert_array_equal(dets.at(2).boxes, [[10.5, 20, 14.5, 28]])
    assert len(dets.at(-1)) == 0
    assert (dets.last_frame, dets.n_boxes, dets.name) == (2, 2, "det.txt")


def test_unsorted_rows_keep_their_order_within_a_frame(write):
    dets = PublicDetections(write("2,-1,5,1,1,1,0.1\n1,-1,6,1,1,1,0.2\n2,-1,3,1,1,1,0.3\n"))
    np.testing.assert_array_equal(dets.at(1).scores, [0.1, 0.3])


@pytest.mark.parametrize("tail", ["", ",0.5", ",0.5,-1", ",0.5,-1,-1,-1", ",0.5,a note"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_six_or_more_columns_are_read(tail, newline, write):
    dets = PublicDetections(write(f"1,-1,1,1,2,3{tail}{newline}{newline} 2 , -1, 1,1,2,3{tail}{newline}"))
    for index in (0, 1):
        np.testing.assert_array_equal(dets.at(index).boxes, [[0, 0, 2, 3]])
        np.testing.assert_array_equal(dets.at(index).scores, [0.5 if tail else 1.0])


def test_byte_order_mark_is_skipped(write):
    assert PublicDetections(write("\ufeff1,-1,1,1,2,3,0.5\n")).n_boxes == 1


@pytest.mark.parametrize("gap", [" ", "\t", "  ", " \t "])
def test_columns_may_be_separated_by_blanks(gap, write):
    dets = PublicDetections(write(f"1{gap}-1{gap}1 {gap}1{gap}2{gap}3{gap}0.5\n\n{gap}2{gap}-1 1 1 2 3 0.5 -1{gap}\n"))
    for index in (0, 1):
        np.testing.assert_array_equal(dets.at(index).boxes, [[0, 0, 2, 3]])


def test_boxes_without_area_are_dropped_and_counted(write, caplog):
    dets = PublicDetections(write("1,-1,1,1,2,3,0.5\n1,-1,1,1,0,3,0.9\n3,-1,1,1,2,-3,0.9\n"))
    assert (dets.n_boxes, dets.last_frame) == (1, 2)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", f"{dets.path}: dropped 2 of 3 detections: they have no area")
    ]
    assert PublicDetections(write("1,-1,1,1,0,3,0.9\n")).n_boxes == 0


def test_boxes_outside_a_known_picture_are_dropped(write):
    path = write("1,-1,-20,1,10,10,0.5\n1,-1,95,1,10,10,0.5\n1,-1,102,1,5,5,0.5\n")
    assert len(PublicDetections(path).at(0)) == 3
    np.testing.assert_array_equal(PublicDetections(path, width=100, height=50).at(0).boxes, [[94, 0, 104, 10]])


GOOD = "1,-1,1,1,2,3,0.5\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "frame, id, left"]),
        (" \n\n", ["empty"]),
        (GOOD + "frame,id,left,top,width,height,score\n", ["line 2", "'frame' is no number"]),
        (GOOD + "\n" + "1,-1,1,1\n", ["line 3", "4 columns", "at least 6"]),
        ("1;-1;1;1;2;3;0.5\n", ["line 1", "1 column; expected at least 6", "frame, id, left"]),
        (GOOD + "1,-1,1,nan,2,3,0.5\n", ["line 2", "top is nan", "finite"]),
        (GOOD + "1,-1,1,1,2,3,inf\n", ["line 2", "score is inf"]),
        (GOOD + "0,-1,1,1,2,3,0.5\n", ["line 2", "frame 0", "counted from 1"]),
        (GOOD + "1.5,-1,1,1,2,3,0.5\n", ["line 2", "frame 1.5", "whole number"]),
        (GOOD + "-4,-1,1,1,2,3,0.5\n", ["line 2", "frame -4"]),
        (GOOD + "1,-1,1,1e100,2,3,0.5\n", ["line 2", "top 1e+100", "1e+09 at most"]),
        (GOOD + "1,-1,1,1,2,3,0.5extra\n", ["line 2", "score '0.5extra'"]),
        (GOOD + "1,-1,,1,2,3,0.5\n", ["line 2", "left ''"]),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ["no text file"]),
    ],
)
def test_malformed_file_names_line_and_mistake(text, words, write):
    path = write(text)
    with pytest.raises(DetectionError) as caught:
        PublicDetections(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DetectionError, match=r"none\.txt: cannot read detections: No such file"):
        PublicDetections(tmp_path / "none.txt")


def test_probability_outside_0_to_1_is_an_error(write):
    path = write("1,-1,1,1,2,3,1.5\n")
    with pytest.raises(DetectionError, match=r"det\.txt: score 1\.5 is no probability"):
        PublicDetections(path, scores="probability")
    with pytest.raises(DetectionError, match="unknown kind of scores 'percent'; there are: auto"):
        PublicDetections(path, scores="percent")


def test_scores_map_even_odds_to_one_half():
    assert scores_to_unit(np.array([0.3]), "margin")[0] == pytest.approx(0.5)
    assert scores_to_unit(np.array([25.0]), "boosted")[0] == pytest.approx(0.5)
    assert scores_to_unit(np.array([1.3]), "margin")[0] == pytest.approx(1 / (1 + np.e**-2))
    assert scores_to_unit(np.array([37.0]), "boosted")[0] == pytest.approx(1 / (1 + np.e**-1))


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ([0.0, 0.4, 1.0], "probability"),
        ([-1e-7, 0.9, 1.0005], "probability"),
        ([-0.5, 0.4, 3.0], "margin"),
        ([0.2, 90.0], "boosted"),
        ([-9, 21], "boosted"),
    ],
)
def test_auto_chooses_the_kind_by_the_range(scores, kind):
    scores = np.array(scores, dtype=float)
    np.testing.assert_array_equal(scores_to_unit(scores), scores_to_unit(scores, kind))


def test_scores_of_minus_one_count_as_absent():
    np.testing.assert_array_equal(scores_to_unit(np.full(3, -1.0)), np.ones(3))


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.9, 1.0000001), "scores are probabilities"),
        ((-0.5, 3), "scores are margins, mapped to probabilities"),
        ((0.5, 90), "scores are sums of boosted trees, mapped to probabilities"),
        ((-1, -1), "no scores, all count as 1"),
    ],
)
def test_what_scores_are_taken_for_is_said(write, scores, said):
    dets = PublicDetections(write("".join(f"1,-1,1,1,2,3,{score}\n" for score in scores)))
    assert dets.note == said
    if scores[0] == 0.9:
        np.testing.assert_array_equal(dets.at(0).scores, [0.9, 1.0])


@given(st.lists(st.floats(-1e300, 1e300), min_size=1), st.sampled_from(["auto", "margin", "boosted"]))
def test_scores_lie_in_0_to_1_in_the_same_order(scores, kind):
    scores = np.sort(np.array(scores))
    unit = scores_to_unit(scores, kind)
    assert ((unit >= 0) & (unit <= 1)).all()
    assert (np.diff(unit) >= 0).all()


_NUMBER = st.one_of(
    st.integers(-3, 50).map(str), st.floats().map(repr), st.sampled_from(["", "x", " 7 ", "1e3", "0x1"])
)
_LINE = st.lists(_NUMBER, max_size=9).map(",".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.lists(_LINE, max_size=4))
def test_any_text_parses_as_line_by_line_or_is_refused(write, lines):
    path = write("\n".join(lines))
    dets, problem = None, ""
    try:
        dets = PublicDetections(path)
    except DetectionError as error:
        problem = str(error)
    if dets is None:
        assert problem.startswith(str(path))
        assert "\n" not in problem
        return
    rows = [[float(cell) for cell in line.split("," if "," in line else None)[:7]] for line in lines if line.strip()]
    rows = [row for row in rows if row[4] > 0 and row[5] > 0]
    assert dets.n_boxes == len(rows)
    for frame in {int(row[0]) for row in rows}:
        expected = [[r[2] - 1, r[3] - 1, r[2] - 1 + r[4], r[3] - 1 + r[5]] for r in rows if r[0] == frame]
        np.testing.assert_array_equal(dets.at(frame - 1).boxes, expected)
