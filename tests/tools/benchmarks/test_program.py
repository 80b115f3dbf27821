"""The benchmark of the whole program runs the user's command, and its numbers add up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tools.benchmarks import program as bench_program


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "SYN"
    write_sequence(make_scene(0, n_people=2, n_frames=6, width=160, height=120), folder)
    return folder


@pytest.mark.slow
def test_program_prints_and_saves_a_run_and_a_peer(sequence, tmp_path, capsys):
    words = f"'{sequence}' --detections public --reid none"
    saved = tmp_path / "runs.json"
    peer = f"other={sys.executable} -c pass"
    assert bench_program.main([words, "--repeat", "1", "--json", str(saved), "--peer", peer]) == 0
    printed = capsys.readouterr().out
    assert "6 frames in" in printed
    assert "beside: decode" in printed
    lines = [line.split() for line in printed.splitlines()[-2:]]
    assert [line[0] for line in lines] == ["track", "other"]
    assert [line[-3] for line in lines[:1]] == ["1.00"]  # the ratio to itself
    (run,) = json.loads(saved.read_text())
    assert run["n_frames"] == 6
    assert 0 < run["first_s"] < run["wall_s"]
    assert 0 <= run["p50_ms"] <= run["p95_ms"]
    assert sum(run["stage_s"].values()) < run["wall_s"]


@pytest.mark.slow
def test_failed_command_gives_its_reason(tmp_path):
    with pytest.raises(SystemExit, match="no such file"):
        bench_program.measured(str(tmp_path / "nothing.avi"))
    with pytest.raises(SystemExit, match="exit status 3"):
        bench_program.cost_of([sys.executable, "-c", "raise SystemExit(3)"])


def test_cost_is_that_of_the_process():
    """A process that sleeps takes time, one that computes the processor, one that holds memory takes memory.

    From a small process: memory is counted from what the one that starts it has.
    """
    costs = "from tools.benchmarks.program import cost_of; import sys; print([cost_of([sys.executable, '-c', text]) "
    costs += "for text in ('import time; time.sleep(0.5)', 'x = bytearray(200 * 2**20); [i for i in range(10**7)]')])"
    printed = subprocess.run([sys.executable, "-c", costs], capture_output=True, text=True, check=True).stdout
    nothing, busy = eval(printed, {"Cost": bench_program.Cost})
    assert nothing.wall_s >= 0.5
    assert nothing.cpu_s < busy.cpu_s
    assert busy.peak_mb > nothing.peak_mb + 150


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 1.0), (0.5, 3.0), (0.95, 4.0)])
def test_quantiles(share, wanted):
    assert bench_program.quantile([4.0, 2.0, 1.0, 3.0], share) == wanted
