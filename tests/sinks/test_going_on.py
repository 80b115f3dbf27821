"""Counts, heat maps and crops end as if nothing had happened, wherever a run broke off and however often."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.errors import ResumeError
from tracker.runtime import checkpoint
from tracker.sinks import side_file as stash
from tracker.sinks.counts import CountsSink
from tracker.sinks.crops import CropSink
from tracker.sinks.heatmap import HeatmapSink
from tracker.sinks.side_file import Stash
from tracker.types import Frame, Source, Tracks

N_FRAMES, WIDTH, HEIGHT = 60, 96, 72
ZONE = [(10.0, 20.0), (70.0, 20.0), (70.0, 66.0), (10.0, 66.0)]


def scene(seed: int) -> list[tuple[Frame, Tracks]]:
    """People who wander and are away for a while, at a frame every two seconds: crops are put out all the time."""
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


def open_counts(folder: Path, resume=None) -> CountsSink:
    counters = [LineCounter((48, 5), (48, 70), once=False)], [ZoneCounter(ZONE, once=False, patience_s=5.0)]
    return CountsSink(*counters, folder / "counts.csv", resume=resume)


def open_heatmap(folder: Path, resume=None) -> HeatmapSink:
    return HeatmapSink(folder / "heat.png", 2.0, resume=resume)


def open_crops(folder: Path, resume=None) -> CropSink:
    return CropSink(folder / "crops", per_identity=2, resume=resume)


OPENERS = [open_counts, open_heatmap, open_crops]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def forget(sink) -> None:
    if hasattr(sink, "forget"):
        sink.forget()


def note(sink, path: Path):
    """As `resume.Keeper` does; gives what another process would read."""
    checkpoint.save(path, {"sink": sink.state()})
    if hasattr(sink, "noted"):
        sink.noted()
    return checkpoint.load(path)["sink"]


@pytest.mark.slow
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("seed", range(4))
def test_broken_off_anywhere_and_gone_on_with(tmp_path, monkeypatch, opener, seed):
    """Killed, or closed in order with frames that come otherwise later; checkpoints lag behind by any number."""
    monkeypatch.setattr(stash, "SPARE_BYTES", 500)  # written anew often
    rng = np.random.default_rng(100 + seed)
    frames, other = scene(seed), scene(seed + 50)
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    run.mkdir()
    with opener(whole) as sink:
        for frame, tracks in frames:
            sink.write(frame, tracks)
    forget(sink)
    saved, at = None, 0
    while at < N_FRAMES:
        sink = opener(run, saved)
        n_noted = 0
        for _ in range(int(rng.integers(1, 12))):
            if at + n_noted < N_FRAMES:
                sink.write(*frames[at + n_noted])
                n_noted += 1
            if rng.random() < 0.3:
                saved, at, n_noted = note(sink, tmp_path / "noted"), at + n_noted, 0
        if rng.random() < 0.5:
            if rng.random() < 0.5:  # as after Ctrl-C: a last note, then the undecided frames
                saved, at, n_noted = note(sink, tmp_path / "noted"), at + n_noted, 0
            for frame, tracks in other[at : at + 3]:
                sink.write(frame, tracks)
            sink.close()
        if saved is None:  # nobody can go on with it
            shutil.rmtree(run)
            run.mkdir()
    with opener(run, saved) as sink:
        pass
    forget(sink)
    assert contents(run) == contents(whole)
    assert len(contents(whole)) == (1 if opener != open_crops else 1 + 6 * 2)


@pytest.mark.parametrize("kind", [LineCounter, ZoneCounter])
def test_a_counter_goes_on_from_any_frame(tmp_path, kind):
    def counter():
        return LineCounter((48, 5), (48, 70)) if kind is LineCounter else ZoneCounter(ZONE)

    frames = scene(7)
    plain = counter()
    events = [plain.update(tracks, frame.time_s) for frame, tracks in frames]
    assert sum(map(len, events)) > 5
    for cut in range(0, N_FRAMES, 7):
        before, after = counter(), counter()
        for frame, tracks in frames[:cut]:
            before.update(tracks, frame.time_s)
        checkpoint.save(tmp_path / "noted", before.state())
        after.restore(checkpoint.load(tmp_path / "noted"))
        assert [after.update(tracks, frame.time_s) for frame, tracks in frames[cut:]] == events[cut:]
        np.testing.assert_equal(after.state(), plain.state())
        if kind is ZoneCounter:
            assert after.inside == plain.inside
            assert after.finish() == counter_at_end(frames).finish()


def counter_at_end(frames) -> ZoneCounter:
    zone = ZoneCounter(ZONE)
    for frame, tracks in frames:
        zone.update(tracks, frame.time_s)
    return zone


def test_a_stash_keeps_what_was_noted_and_stays_small(tmp_path, rng, monkeypatch):
    """Sixty rounds in which half of the pieces are replaced; after each the last note and the new one hold."""
    monkeypatch.setattr(stash, "SPARE_BYTES", 1000)
    pieces = {f"{n}": rng.bytes(100) for n in range(10)}
    kept, noted, largest = Stash(tmp_path / "x"), None, 0
    for round_ in range(60):
        if noted is not None:  # whatever comes after it
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
            assert Stash(copy / "x", noted[0]).pieces() == noted[1]
        for name in list(pieces)[:5]:
            del pieces[name]
        pieces |= {f"{round_}-{n}": rng.bytes(100) for n in range(5)}
        state = kept.keep(list(pieces), pieces.__getitem__)
        assert kept.pieces() == pieces
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.glob("x.kept*")))
        if rng.random() < 0.7:
            kept.noted()
            noted = state, dict(pieces)
    assert largest < 2 * (2 * 1000 + 1000) + 500 * 8
    kept.forget()
    assert list(tmp_path.glob("x.kept*")) == []


def test_what_was_changed_meanwhile_is_refused(tmp_path):
    frames, saved = scene(1), {}
    for opener in (open_heatmap, open_crops):
        sink = opener(tmp_path)
        for frame, tracks in frames[:30]:
            sink.write(frame, tracks)
        saved[opener] = note(sink, tmp_path / "noted")
    beside = next(tmp_path.glob("heat.png.kept*"))
    data = beside.read_bytes()
    beside.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    with pytest.raises(ResumeError, match=rf"{beside.name}: (is damaged|was changed)"):
        open_heatmap(tmp_path, saved[open_heatmap])
    beside.unlink()
    with pytest.raises(ResumeError, match=f"{beside.name}: cannot be gone on with: No such file"):
        open_heatmap(tmp_path, saved[open_heatmap])
    crop = sorted((tmp_path / "crops").glob("*.jpg"))[0]
    crop.write_bytes(crop.read_bytes() + b"x")
    with pytest.raises(ResumeError, match=f"{crop.name}: was changed since the checkpoint"):
        open_crops(tmp_path, saved[open_crops])
    crop.unlink()
    with pytest.raises(ResumeError, match=f"{crop.name}: cannot be gone on with: No such file"):
        open_crops(tmp_path, saved[open_crops])
