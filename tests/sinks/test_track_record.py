"""The record of tracks reads back as written, and sinks fed from it equal those of an uninterrupted run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.disks import contents
from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.errors import ResumeError
from tracker.runtime import checkpoint
from tracker.sinks.coco import CocoVideoSink
from tracker.sinks.counts import CountsSink
from tracker.sinks.crops import CropSink
from tracker.sinks.heatmap import HeatmapSink
from tracker.sinks.track_record import TrackRecord
from tracker.types import Frame, Mask, Source, Tracks

N_FRAMES, WIDTH, HEIGHT = 60, 96, 72
ZONE = [(10.0, 20.0), (70.0, 20.0), (70.0, 66.0), (10.0, 66.0)]
COLUMNS = ("xyxy", "id", "score", "class_id", "det_index", "source")


def scene(seed: int) -> list[tuple[Frame, Tracks]]:
    """Random walks with absences, a frame every two seconds, so that crops are written all the time."""
    rng = np.random.default_rng(seed)
    places, frames = rng.uniform((0, 30), (WIDTH, HEIGHT), (6, 2)), []
    for index in range(N_FRAMES):
        places = np.clip(places + rng.normal(0, 9, places.shape), (5, 25), (WIDTH - 5, HEIGHT - 2))
        there = np.flatnonzero((index // 8 + np.arange(6)) % 3 > 0)
        foot, half, high = places[there], rng.uniform(4, 8, len(there)), rng.uniform(12, 24, len(there))
        boxes = np.stack([foot[:, 0] - half, foot[:, 1] - high, foot[:, 0] + half, foot[:, 1]], axis=1)
        n = len(there)
        source = np.where(rng.random(n) < 0.8, Source.DETECTED, Source.OCCLUDED).astype(np.uint8)
        tracks = Tracks(boxes, there + 1, rng.uniform(0.3, 1, n), np.zeros(n, np.int64), np.arange(n), source)
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        frames.append((Frame(index, 2.0 * index, image, WIDTH, HEIGHT), tracks))
    return frames


def assert_equal(found: Tracks, wanted: Tracks) -> None:
    for name in COLUMNS:
        a, b = getattr(found, name), getattr(wanted, name)
        assert (a.dtype, a.tolist()) == (b.dtype, b.tolist()), name


def test_record_read_back_equals_what_was_written(tmp_path):
    frames = [*scene(1), (Frame(99, 198.5, None, WIDTH, HEIGHT), Tracks())]
    with TrackRecord(tmp_path / "x.tracks") as record:
        for frame, tracks in frames:
            record.write(frame, tracks)
        found = list(record.read(WIDTH, HEIGHT))
    assert len(found) == len(frames)
    for (frame, tracks), (wanted, wanted_tracks) in zip(found, frames, strict=True):
        assert (frame.index, frame.time_s, frame.image) == (wanted.index, wanted.time_s, None)
        assert (frame.width, frame.height) == (WIDTH, HEIGHT)
        assert_equal(tracks, wanted_tracks)


def test_record_keeps_keypoints_and_masks(tmp_path, rng):
    frame, tracks = scene(2)[0]
    points = rng.uniform(0, 90, (len(tracks), 17, 3))
    points[0] = np.nan
    masks = np.full(len(tracks), None, object)
    masks[1] = Mask(3, 5, rng.random((7, 9)) < 0.5)
    given = [replace(tracks, keypoints=points), replace(tracks, masks=masks), tracks, Tracks(keypoints=points[:0])]
    with TrackRecord(tmp_path / "x.tracks") as record:
        for each in given:
            record.write(frame, each)
        found = [each for _, each in record.read(WIDTH, HEIGHT)]
    np.testing.assert_array_equal(found[0].keypoints, points)
    assert found[0].masks is None
    assert [mask is None for mask in found[1].masks] == [mask is None for mask in masks]
    assert (found[1].masks[1].x, found[1].masks[1].y) == (3, 5)
    np.testing.assert_array_equal(found[1].masks[1].bits, masks[1].bits)
    assert (found[2].keypoints, found[2].masks) == (None, None)
    assert found[3].keypoints.shape == (0, 17, 3)


def test_record_resumed_drops_frames_after_its_state(tmp_path):
    frames = scene(2)
    with TrackRecord(tmp_path / "x.tracks") as record:
        for frame, tracks in frames[:20]:
            record.write(frame, tracks)
        state = record.state()
        for frame, tracks in scene(3)[20:25]:
            record.write(frame, tracks)
    with TrackRecord(tmp_path / "x.tracks", state) as record:
        for frame, tracks in frames[20:]:
            record.write(frame, tracks)
        found = list(record.read(WIDTH, HEIGHT))
    assert [frame.index for frame, _ in found] == list(range(N_FRAMES))
    for (_, tracks), (_, wanted) in zip(found, frames, strict=True):
        assert_equal(tracks, wanted)


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_record_that_changed_is_refused(tmp_path, damage):
    path = tmp_path / "x.tracks"
    with TrackRecord(path) as record:
        for frame, tracks in scene(4):
            record.write(frame, tracks)
        state = record.state()
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "truncated" else data[:-9] + bytes(9))
    with pytest.raises(ResumeError, match=r"x\.tracks"):
        TrackRecord(path, state)


def test_record_damaged_before_the_checked_end_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tracker.sinks.frame_file.CHECKED_BYTES", 16)
    path = tmp_path / "x.tracks"
    with TrackRecord(path) as record:
        for frame, tracks in scene(4):
            record.write(frame, tracks)
        state = record.state()
    data = bytearray(path.read_bytes())
    data[16:20] = (10**9).to_bytes(4, "little")  # number of rows of the first frame
    path.write_bytes(data)
    with TrackRecord(path, state) as record, pytest.raises(ResumeError, match="is damaged"):
        list(record.read(WIDTH, HEIGHT))


def open_counts(folder: Path, overwrite: bool = False) -> CountsSink:
    counters = [LineCounter((48, 5), (48, 70), once=False)], [ZoneCounter(ZONE, once=False, patience_s=5.0)]
    return CountsSink(*counters, folder / "counts.csv", overwrite)


def open_heatmap(folder: Path, overwrite: bool = False) -> HeatmapSink:
    return HeatmapSink(folder / "heat.png", 2.0, overwrite)


def open_crops(folder: Path, overwrite: bool = False) -> CropSink:
    return CropSink(folder / "crops", overwrite, per_identity=2)


def open_coco(folder: Path, overwrite: bool = False) -> CocoVideoSink:
    return CocoVideoSink(folder / "tracks.json", overwrite)


@pytest.mark.parametrize("opener", [open_counts, open_heatmap, open_crops, open_coco])
@pytest.mark.parametrize("closed", [True, False])
def test_sink_made_again_equals_an_uninterrupted_one(tmp_path, opener, closed):
    """Killed, or closed in order after other frames; from the record and, for the rest, as the frames come."""
    frames, other = scene(5), scene(55)
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    run.mkdir()
    with opener(whole) as sink:
        for frame, tracks in frames:
            sink.write(frame, tracks)
    with TrackRecord(tmp_path / "x.tracks") as record:
        sink = opener(run)
        for frame, tracks in frames[:40]:
            sink.write(frame, tracks)
            record.write(frame, tracks)
        checkpoint.save(tmp_path / "x", {"record": record.state()})
        for frame, tracks in other[40:43]:
            sink.write(frame, tracks)
            record.write(frame, tracks)
        if closed:
            sink.close()
    if not closed:
        shutil.copytree(run, tmp_path / "killed")
        run = tmp_path / "killed"
    state = checkpoint.load(tmp_path / "x")["record"]
    with TrackRecord(tmp_path / "x.tracks", state) as record, opener(run, overwrite=True) as sink:
        recorded = [(frames[frame.index][0], tracks) for frame, tracks in record.read(WIDTH, HEIGHT)]
        for frame, tracks in [*recorded, *frames[40:]]:
            sink.write(frame, tracks)
    assert contents(run) == contents(whole)
    assert len(contents(whole)) == (1 + 6 * 2 if opener is open_crops else 1)
