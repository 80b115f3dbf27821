"""MOT text: the conventions of each benchmark, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.eval import clear_identity, hota
from tracker.eval.mot_files import MotFileError, as_read, read_ground_truth, read_results, read_tracks
from tracker.eval.preprocess import prepare
from tracker.eval.submission import submission_text
from tracker.sinks.mot_txt import mot_lines
from tracker.types import Tracks


def test_mot16_truth_counts_only_class_1(tmp_path):
    # consider, class -> counts, ignored
    cases = [
        (1, 1, True, False),
        (0, 1, False, False),
        (1, 2, False, True),
        (1, 7, False, True),
        (1, 8, False, True),
        (1, 12, False, True),
        (0, 9, False, False),
        (0, 8, False, True),
        (1, 3, False, False),
    ]
    path = tmp_path / "gt.txt"
    path.write_text("".join(f"1,{i},10,20,30,40,{c},{k},0.5\n" for i, (c, k, _, _) in enumerate(cases, 1)))
    truth = read_ground_truth(path)
    assert truth.counts.tolist() == [counts for _, _, counts, _ in cases]
    assert truth.ignored.tolist() == [ignored for _, _, _, ignored in cases]
    np.testing.assert_array_equal(truth.table.boxes[0], [10, 20, 40, 60])  # MOT's pixels, untouched


@pytest.mark.parametrize("tail", ["", ",-1,-1,-1", ",-4.15,-7.36,0"])
def test_mot15_truth_counts_boxes_with_a_seventh_value(tmp_path, tail):
    path = tmp_path / "gt.txt"
    path.write_text(f"1,1,10,20,30,40,1{tail}\n1,2,10,20,30,40,0{tail}\n")
    truth = read_ground_truth(path)
    assert truth.counts.tolist() == [True, False]
    assert truth.ignored.tolist() == [False, False]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_results_have_no_tracks(tmp_path, text):
    path = tmp_path / "out.txt"
    path.write_text(text)
    table = read_results(path)
    assert len(table) == 0
    assert table.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "text",
    [
        "1,1,10,20,30,40,1,-1,-1,-1",
        "\n1,1,10,20,30,40\r\n\r\n",
        "1, 1, 10, 20, 30, 40,\n",
        "\ufeff1,1,10,20,30,40\n",
        "1 1 10 20 30 40",
        "1\t1\t10\t20\t30\t40\t1\t-1\t-1\t-1\r\n",
        "\ufeff 1  1 10.0\t20 30 40 0.5 \n\n",
    ],
)
def test_harmless_variants_are_read(tmp_path, text):
    path = tmp_path / "out.txt"
    path.write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_results(path).boxes, [[10, 20, 40, 60]])
    assert submission_text(path).startswith(("1,1,10,20,30,40,", "1,1,10.0,20,30,40,0.5,"))
    assert submission_text(path).count(",") == 9


def test_truth_with_blanks_is_that_with_commas(tmp_path):
    rows = "1,1,10,20,30,40,1,1,0.5\n2,1,10,20,30,40,0,2,1\n"
    truths = []
    for gap in (",", " ", "\t"):
        (tmp_path / "gt.txt").write_text(rows.replace(",", gap))
        truths.append(read_ground_truth(tmp_path / "gt.txt"))
    for truth in truths[1:]:
        np.testing.assert_array_equal(truth.table.boxes, truths[0].table.boxes)
        np.testing.assert_array_equal(truth.counts, truths[0].counts)


def test_box_without_area_overlaps_nothing_and_is_counted_once(tmp_path, caplog):
    """Two people; the second is found as a box without area: one match, one miss, one false positive."""
    (tmp_path / "gt.txt").write_text("1,1,10,20,30,40,1,1,1\n1,2,100,20,30,40,1,1,1\n1,3,200,20,30,0,0,1,1\n")
    (tmp_path / "out.txt").write_text("1,1,10,20,30,40,1\n1,2,100,20,0,40,1\n2,1,10,20,-30,40,1\n")
    truth, results = read_ground_truth(tmp_path / "gt.txt"), read_results(tmp_path / "out.txt")
    assert caplog.messages == [
        f"{tmp_path / 'gt.txt'}: 1 of 3 boxes have no area; they overlap nothing",
        f"{tmp_path / 'out.txt'}: 2 of 3 boxes have no area; they overlap nothing",
    ]
    pair = prepare(truth, results)
    counts = clear_identity.evaluate(*pair)
    assert (counts.misses, counts.false_positives) == (1, 2)
    assert np.isfinite(hota.evaluate(*pair).hota)
    assert [len(tracks) for tracks in read_tracks(tmp_path / "out.txt")] == [1, 0]


@pytest.mark.parametrize("size", [0.004, 0.0, 1e-12, 0.006])
def test_own_writer_makes_no_row_that_a_reader_refuses(tmp_path, caplog, size):
    """Also boxes that would print as 0.00, and the largest ones; both ways to score see the same boxes."""
    xyxy = np.array([[5.0, 6, 5 + size, 6 + size], [1e9 - 1, 0, 1e9, 30], [-1e9, 0, 2, 30]])
    tracks = Tracks(xyxy, np.arange(1, 4), np.ones(3), np.zeros(3, np.int64), np.full(3, -1), np.zeros(3, np.uint8))
    (tmp_path / "out.txt").write_text(mot_lines(0, tracks))
    found = read_results(tmp_path / "out.txt")
    assert caplog.messages == []
    np.testing.assert_array_equal(found.boxes, as_read(np.zeros(3, np.int64), tracks.id, xyxy).boxes)
    np.testing.assert_allclose(found.boxes[0], [6, 7, 6.01, 7.01])


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("1,2,10,20,30", "5 columns"),
        ("1,2,10,20,30,forty,1", "'forty' is not a number"),
        ("1,2,10,,30,40,1", "'' is not a number"),
        ("0,2,10,20,30,40,1", "frame must be a whole number from 1"),
        ("1.5,2,10,20,30,40,1", "frame must be"),
        ("1,2.5,10,20,30,40,1", "id must be"),
        ("1,2,nan,20,30,40,1", "not finite"),
        ("1,2,10,20,-1e10,40,1", "pixels, 1e+09 at most"),
        ("1,2,10,20,30,40,1,1", "8 columns, but 7"),
        ("1,1,10,20,30,40,1", "id 1 twice, first in line 1"),
    ],
)
def test_malformed_line_is_named(tmp_path, bad, what):
    path = tmp_path / "out.txt"
    path.write_text(f"1,1,10,20,30,40,1\n\n{bad}\n2,1,10,20,30,40,1\n")
    with pytest.raises(MotFileError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert what in str(caught.value)
    assert caught.value.exit_code == 2


def test_malformed_truth_is_named(tmp_path):
    path = tmp_path / "gt.txt"
    for text, what in [
        ("1,1,10,20,30,40,1,99,1\n", ":1: class must be"),
        ("1,1,10,20,30,40\n", ":1: 6 columns"),
        ("1,1,10,20,30,40,0,1,1\n", "no box that counts"),
        ("", "no box that counts"),
    ]:
        path.write_text(text)
        with pytest.raises(MotFileError, match=what):
            read_ground_truth(path)
    with pytest.raises(MotFileError, match=r"absent\.txt: cannot be read"):
        read_ground_truth(tmp_path / "absent.txt")


@pytest.mark.data
def test_counts_of_real_ground_truth(data_root):
    # sequence -> boxes and people that count, as the data set states them
    for name, boxes, people in [
        ("mot16/train/MOT16-09", 5257, 25),
        ("mot15/train/TUD-Campus", 359, 8),
        ("mot15/train/PETS09-S2L1", 4476, 19),
    ]:
        truth = read_ground_truth(data_root / name / "gt" / "gt.txt")
        assert truth.counts.sum() == boxes
        assert len(np.unique(truth.table.id[truth.counts])) == people
