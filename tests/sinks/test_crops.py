"""The best crops of each identity: chosen by quality and time, bounded, readable by the training toolkit."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_training.data import csv_table
from tracker.errors import OutputError, WriteError
from tracker.sinks import crops
from tracker.sinks.crop_selection import Crop, CropSelection, inside, sharpness, sized, unoccluded, worths
from tracker.sinks.crops import CropSink
from tracker.types import Frame, Source, Tracks

WIDTH, HEIGHT = 320, 240


def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def people(*rows: tuple[int, tuple[float, float, float, float]], source: Source = Source.DETECTED) -> Tracks:
    n = len(rows)
    boxes = np.array([box for _, box in rows], float).reshape(n, 4)
    columns = (
        np.array([identity for identity, _ in rows], np.int64),
        np.full(n, 0.75),
        np.zeros(n, np.int64),
        np.arange(n),
    )
    return Tracks(boxes, *columns, np.full(n, source, np.uint8))


def pick(time_s: float, quality: float) -> Crop:
    return Crop(round(time_s * 10) + 1, time_s, (0, 0, 1, 1), 1.0, quality, b"")


def table_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "people.csv").open()))


# ------------------------------------------------------------------------------------------------------- quality


def slow_free_share(boxes: np.ndarray, row: int) -> float:
    """Least share left of a box of whole pixels by any box that ends lower, pixel by pixel."""
    x1, y1, x2, y2 = boxes[row].astype(int)
    free = 1.0
    for other in boxes.astype(int):
        if other[3] > y2:
            left = [
                not (other[0] <= x < other[2] and other[1] <= y < other[3])
                for x in range(x1, x2)
                for y in range(y1, y2)
            ]
            free = min(free, float(np.mean(left)))
    return free


def test_occluded_and_outside_shares_by_counting_pixels(rng):
    for _ in range(10):
        left_top = rng.integers(-20, 50, (5, 2))
        boxes = np.hstack([left_top, left_top + rng.integers(1, 40, (5, 2))]).astype(float)
        np.testing.assert_allclose(unoccluded(boxes), [slow_free_share(boxes, row) for row in range(5)])
        clipped = np.clip(boxes, 0, 45)
        share = [
            np.mean([0 <= x < 45 and 0 <= y < 45 for x in range(int(a), int(c)) for y in range(int(b), int(d))])
            for a, b, c, d in boxes
        ]
        np.testing.assert_allclose(inside(boxes, clipped), share)


def test_larger_and_sharper_crops_score_higher(rng):
    boxes = np.array([[0, 0, 20, 40], [0, 0, 64, 128], [0, 0, 200, 400.0]])
    assert (np.diff(sized(boxes)) > 0).all()
    assert sized(boxes)[1] == pytest.approx(0.5, abs=0.01)
    crop = picture(rng)[:128, :64]
    blurred = [sharpness(crop), *(sharpness(cv2.GaussianBlur(crop, (0, 0), sigma)) for sigma in (1, 2, 4))]
    assert blurred == sorted(blurred, reverse=True)
    assert sharpness(np.full((60, 30, 3), 77, np.uint8)) == 0


def test_steadiness_compares_with_the_last_seconds():
    album = CropSelection(4)
    assert album.steadiness(0.0, 100) == 1
    assert album.steadiness(0.1, 200) == pytest.approx(0.25, rel=0.05)
    assert album.steadiness(0.2, 50) == pytest.approx(0.25, rel=0.1)
    assert album.steadiness(0.3, 100) == pytest.approx(1, abs=0.05)
    assert album.steadiness(60.0, 40) == pytest.approx(1, abs=0.01)  # the height is learned again after an absence
    for frame in range(100):  # a person who comes nearer: twice as high in ten seconds
        assert album.steadiness(60 + frame / 10, 40 * 2 ** (frame / 100)) > 0.5


def test_crop_of_box_with_neighbour_scores_lower(tmp_path, rng):
    image = picture(rng)
    with CropSink(tmp_path / "crops", per_identity=3) as sink:
        for index in range(100):
            stretched = 30 <= index < 40 or 72 <= index < 75
            box = (50, 20, 100, 220) if stretched else (50, 60, 100, 160)
            sink.write(Frame(index, index / 10, image, WIDTH, HEIGHT), people((1, box)))
    assert [row["y1"] for row in table_of(tmp_path / "crops")] == ["60.00"] * 3


# -------------------------------------------------------------------------------------------------------- choice


def test_crop_selection_keeps_best_of_every_span(rng):
    """Against all crops at once: the best one of each span of the final length."""
    album, everything, replaced = CropSelection(8), [], []
    for frame in range(400):
        new = pick(frame / 10, float(rng.random()))
        everything.append(new)
        if album.wants(new.time_s, new.quality):
            replaced += album.add(new)
    assert len(album) <= 8
    span_s = album._span_s
    assert 400 / 10 / span_s <= 8
    best = {}
    for each in everything:
        best.setdefault(int(each.time_s // span_s), []).append(each)
    assert album.crops == [max(group, key=lambda one: one.quality) for group in best.values()]
    assert not {id(one) for one in replaced} & {id(one) for one in album.crops}


def test_crops_of_approaching_person_include_early_ones():
    album = CropSelection(10)
    for frame in range(1000):
        if album.wants(frame / 25, frame / 1000):
            album.add(pick(frame / 25, frame / 1000))
    album.reduce(5)
    times_s = [each.time_s for each in album.crops]
    assert len(times_s) == 5
    assert times_s[-1] > 39
    assert min(np.diff(times_s)) > 2


def test_reduce_drops_neighbours_and_poor_crops():
    album = CropSelection(20)
    for time_s, quality in ((0, 0.8), (0.9, 0.7), (5, 0.75), (9, 0.1), (10, 0.9)):
        album.add(pick(time_s, quality))
    out = album.reduce(3)
    assert [each.time_s for each in album.crops] == [0, 5, 10]
    assert sorted(each.time_s for each in out) == [0.9, 9]
    album.reduce(1)
    assert [each.quality for each in album.crops] == [0.9]


def test_reduce_keeps_the_best_however_bad():
    album = CropSelection(4)
    album.add(pick(0, 0.0))
    assert album.reduce(3) == []
    assert len(album) == 1


def test_crop_value_falls_with_temporal_distance():
    assert worths([pick(0, 0.5)]) == [0.5]
    assert worths([pick(0, 0.5), pick(1, 0.6), pick(10, 0.7)]) == pytest.approx([0.5 / 5, 0.6 / 5, 0.7])


# -------------------------------------------------------------------------------------------------------- folder


def test_crops_are_the_box_pixels_inside_the_image(tmp_path, rng):
    images = [cv2.GaussianBlur(picture(rng), (0, 0), 3) for _ in range(2)]
    with CropSink(tmp_path / "crops", camera="video.avi") as sink:
        sink.write(Frame(0, 0.0, images[0], WIDTH, HEIGHT), people((3, (10, 20, 50, 120)), (7, (-10, 30, 30.4, 130))))
        sink.write(Frame(9, 0.9, images[1], WIDTH, HEIGHT), people((3, (200, 100, 260, 200))))
    rows = table_of(tmp_path / "crops")
    assert [(row["image"], row["id"], row["frame"]) for row in rows] == [
        ("0003_000001.jpg", "3", "1"), ("0003_000010.jpg", "3", "10"), ("0007_000001.jpg", "7", "1"),
    ]  # fmt: skip
    assert {row["camera"] for row in rows} == {"video.avi"}
    assert [rows[2][edge] for edge in ("x1", "y1", "x2", "y2")] == ["-10.00", "30.00", "30.40", "130.00"]
    assert rows[1]["time_s"] == "0.900000"
    cuts = (images[0][20:120, 10:50], images[1][100:200, 200:260], images[0][30:130, 0:30])
    for row, cut in zip(rows, cuts, strict=True):
        image = cv2.imread(str(tmp_path / "crops" / row["image"]))
        assert image.shape == cut.shape
        assert np.abs(image.astype(int) - cut).mean() < 3  # JPEG
        assert 0 < float(row["quality"]) < 1
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == sorted(
        [*(row["image"] for row in rows), "people.csv"]
    )


def test_better_view_wins(tmp_path, rng):
    """Within half a second: large before small, whole before cut, alone before occluded, sharp before not."""
    sharp = cv2.GaussianBlur(picture(rng), (0, 0), 1)
    good = (100.0, 60.0, 150.0, 180.0)
    worse = {
        "small": (sharp, people((1, (100, 60, 125, 120)))),
        "cut": (sharp, people((1, (-25, 60, 25, 180)))),
        "behind": (sharp, people((1, good), (2, (110, 70, 160, 190)))),
        "blurred": (cv2.GaussianBlur(sharp, (0, 0), 4), people((1, good))),
        "proposed": (sharp, people((1, good), source=Source.PROPOSED)),
    }
    for name, (image, tracks) in worse.items():
        for order in (0, 1):
            frames = [(sharp, people((1, good))), (image, tracks)][:: 1 - 2 * order]
            folder = tmp_path / f"{name}{order}"
            with CropSink(folder) as sink:
                for index, (shown, seen) in enumerate(frames):
                    sink.write(Frame(index, index / 25, shown, WIDTH, HEIGHT), seen)
            kept = [row["frame"] for row in table_of(folder) if row["id"] == "1"]
            assert kept == [str(order + 1)], name


def test_long_track_gives_few_crops_spread_over_time(tmp_path, rng):
    image = picture(rng)
    with CropSink(tmp_path / "crops") as sink:
        for index in range(600):
            x = 20 + index % 100
            sink.write(Frame(index, index / 10, image, WIDTH, HEIGHT), people((1, (x, 50, x + 40, 150))))
    frames = [int(row["frame"]) for row in table_of(tmp_path / "crops")]
    assert len(frames) == crops.PER_IDENTITY
    assert min(np.diff(frames)) > 50
    assert len(list((tmp_path / "crops").glob("*.jpg"))) == len(frames)


def test_crops_of_gone_person_are_written_early(tmp_path, rng):
    """Small at first; after a minute the same person is back, larger."""
    folder, image = tmp_path / "crops", picture(rng)
    with CropSink(folder, per_identity=1) as sink:
        sink.write(Frame(0, 0.0, image, WIDTH, HEIGHT), people((1, (10, 10, 30, 50))))
        assert not list(folder.glob("*.jpg"))
        sink.write(Frame(99, 9.9, image, WIDTH, HEIGHT), people())
        assert not list(folder.glob("*.jpg"))
        sink.write(Frame(101, 10.1, image, WIDTH, HEIGHT), people())
        assert [row["image"] for row in table_of(folder)] == ["0001_000001.jpg"]
        assert (folder / "0001_000001.jpg").is_file()
        sink.write(Frame(700, 70.0, image, WIDTH, HEIGHT), people((1, (10, 10, 130, 210))))
    assert [row["image"] for row in table_of(folder)] == ["0001_000701.jpg"]
    assert [path.name for path in folder.glob("*.jpg")] == ["0001_000701.jpg"]


def test_crops_in_memory_are_bounded(tmp_path, rng):
    """A new person every second, for three minutes."""
    image, most = picture(rng), 0
    with CropSink(tmp_path / "crops") as sink:
        for second in range(180):
            for part in range(3):
                seen = people((second + 1, (10 + part, 10, 60, 110)))
                sink.write(Frame(3 * second + part, second + part / 3, image, WIDTH, HEIGHT), seen)
            held = sum(each.jpeg is not None for kept in sink._selections.values() for each in kept.crops)
            most = max(most, held)
    assert most <= 2 * 12
    assert {row["id"] for row in table_of(tmp_path / "crops")} == {str(second + 1) for second in range(180)}


def test_error_elsewhere_writes_collected_crops(tmp_path, rng):
    with pytest.raises(ZeroDivisionError), CropSink(tmp_path / "crops") as sink:
        sink.write(Frame(0, 0.0, picture(rng), WIDTH, HEIGHT), people((1, (10, 10, 30, 50))))
        raise ZeroDivisionError
    assert [row["image"] for row in table_of(tmp_path / "crops")] == ["0001_000001.jpg"]


# ----------------------------------------------------------------------------------------------------- mistakes


def test_crops_folder_not_empty_needs_overwrite(tmp_path, rng):
    folder = tmp_path / "crops"
    folder.mkdir()
    CropSink(folder).close()  # empty: fine
    frame = Frame(0, 0.0, picture(rng), WIDTH, HEIGHT)
    with CropSink(folder, overwrite=True) as sink:
        sink.write(frame, people((1, (10, 10, 30, 50))))
    (folder / "holiday.jpg").write_bytes(b"mine")
    (folder / "0009_000001.jpg").write_bytes(b"mine too")
    with pytest.raises(OutputError, match=r"not empty.*--overwrite"):
        CropSink(folder)
    with CropSink(folder, overwrite=True) as sink:
        sink.write(frame, people((2, (10, 10, 30, 50))))
    assert sorted(path.name for path in folder.iterdir()) == [
        "0002_000001.jpg", "0009_000001.jpg", "holiday.jpg", "people.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["image,id,camera,frame,visibility\na.jpg,1,x,1,1\n", "", "\x00\xff"])
def test_another_table_is_never_replaced(tmp_path, text):
    (tmp_path / "people.csv").write_bytes(text.encode("latin-1"))
    (tmp_path / "a.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"people\.csv: was not written by"):
        CropSink(tmp_path, overwrite=True)
    assert (tmp_path / "people.csv").read_bytes() == text.encode("latin-1")
    assert (tmp_path / "a.jpg").is_file()


def test_overwrite_never_leaves_the_folder(tmp_path):
    outside = tmp_path / "precious.jpg"
    outside.write_bytes(b"mine")
    folder = tmp_path / "crops"
    folder.mkdir()
    row = ["../precious.jpg", *["1"] * (len(crops.COLUMNS) - 1)]
    (folder / "people.csv").write_text(",".join(crops.COLUMNS) + "\n" + ",".join(row) + "\n")
    with pytest.raises(OutputError, match=r"names a file that is no crop, '\.\./precious\.jpg', so all stays"):
        CropSink(folder, overwrite=True)
    assert outside.is_file()
    assert (folder / "people.csv").is_file()


def test_impossible_input_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder, said in ((tmp_path / "file", "is a file"), (tmp_path / "none" / "crops", "does not exist")):
        with pytest.raises(OutputError, match=said):
            CropSink(folder)
    with CropSink(tmp_path / "crops") as sink, pytest.raises(OutputError, match="no pictures"):
        sink.write(Frame(0, 0.0, None, WIDTH, HEIGHT), people())


def test_full_disk_leaves_complete_crops_and_table(tmp_path, rng, monkeypatch):
    real, n_written = Path.write_bytes, 0

    def write_bytes(path, data):
        nonlocal n_written
        n_written += 1
        if n_written > 2:
            real(path, data[:10])
            raise OSError(28, "No space left on device", str(path))
        return real(path, data)

    folder = tmp_path / "crops"
    image = picture(rng)
    with pytest.raises(WriteError, match="No space left"), CropSink(folder, per_identity=3) as sink:
        for index in range(3):
            sink.write(Frame(index, float(index), image, WIDTH, HEIGHT), people((1, (10, 10, 60, 110))))
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert len(list(folder.glob("*.jpg"))) == 2
    assert all(cv2.imread(str(path)) is not None for path in folder.glob("*.jpg"))
    assert {row["image"] for row in table_of(folder)} <= {path.name for path in folder.glob("*.jpg")}


# ------------------------------------------------------------------------------------------- the training toolkit


def test_training_toolkit_reads_the_folder(tmp_path, rng):
    with CropSink(tmp_path / "crops", camera="video.avi") as sink:
        for index in range(4):
            seen = people((1, (10, 10, 60, 110)), (2, (100, 10, 160, 110)))
            sink.write(Frame(index, float(index), picture(rng), WIDTH, HEIGHT), seen)
    data = csv_table.read(tmp_path / "crops" / "people.csv")
    assert len(data.gallery.paths) == 8
    samples, frames = csv_table.read_videos(tmp_path / "crops" / "people.csv")
    assert sorted(frames.tolist()) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert len(set(samples.pids.tolist())) == 2
