"""The registry: one declaration gives a sink its option, checks, files and opening."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.commands import track_options
from tracker.commands.track import main
from tracker.commands.track_options import parse_options
from tracker.errors import OutputError
from tracker.sinks import registry
from tracker.sinks.base import RunFacts, SinkOption
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, Tracks


class NumbersSink(FrameFileSink):
    """How many people are in each frame."""

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._file.append(f"{len(tracks)}\n".encode(), frame.index)


def check_ending(value: str) -> None:
    if not value.endswith(".num"):
        raise OutputError(f"{value}: must end with .num")


def open_numbers(path: str | None, run: RunFacts) -> NumbersSink:
    assert path is not None
    return NumbersSink(path, run.overwrite, run.resume)


NUMBERS = SinkOption(("--numbers",), "FILE.num", "people in each frame", open_numbers, check=check_ending)


@pytest.fixture(scope="module")
def synthetic_sequence(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    write_sequence(make_scene(4, n_people=4, n_frames=12, width=160, height=120), folder / "SYN-01")
    return folder / "SYN-01"


@pytest.fixture
def with_numbers(monkeypatch):
    monkeypatch.setattr(registry, "SINKS", (*registry.SINKS, NUMBERS))


def test_registered_sink_is_in_the_help_checked_and_written(with_numbers, synthetic_sequence, tmp_path, capsys):
    assert "--numbers FILE.num" in track_options.build_parser().format_help()
    words = [str(synthetic_sequence), "--detections", "public", "--reid", "none", "--quiet", "--numbers"]
    assert main([*words, str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err == f"track: {tmp_path / 'a.txt'}: must end with .num\n"
    assert main([*words, str(tmp_path / "a.num")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.num"]
    assert {"1", "2"} <= set((tmp_path / "a.num").read_text().split())
    assert main([*words, str(tmp_path / "a.num")]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("sink", registry.SINKS, ids=lambda sink: sink.name)
def test_every_sink_option_becomes_one_result_with_its_file(sink):
    endings = {
        "--out": ".txt",
        "--video": ".avi",
        "--save-embeddings": ".npy",
        "--heatmap": ".png",
        "--top-view": ".png",
    }
    endings |= {"--events": ".jsonl", "--embedded-events": ".jsonl"}
    value = f"x{endings.get(sink.name, '')}"
    ground = ["--ground", "0,9=0,0", "9,9=1,0", "9,0=1,1", "0,0=0,1"]
    options = parse_options(["video.avi", sink.name, value, "--line", "0,0,1,1", *ground])
    found = [result for result in options.results if result.option is sink]
    assert [(str(result), result.file) for result in found] == [(f"{sink.name} {value}", Path(value))]


def test_result_on_standard_output_has_no_file():
    out = parse_options(["video.avi", "--out", "-"]).results[0]
    assert (out.file, out.on_stdout) == (None, True)
    assert not replace(out, option=NUMBERS).on_stdout  # for other sinks "-" is a name
