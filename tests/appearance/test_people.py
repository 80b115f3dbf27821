"""The file of --people: whole or not at all, checked when read, for one run at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracker.appearance.people import MOST_VISITS, People, PeopleFile
from tracker.errors import ConfigError, OutputError, ResumeError, WriteError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def network(tmp_path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"a network")
    return path


def write(path: Path, network: Path, people: int = 2) -> None:
    file = PeopleFile(path, network, 3)
    for number in range(1, people + 1):
        file.people.add_visit(number, np.eye(3)[number % 3] * 0.9)
    file.save()
    file.close()


def test_file_gives_the_same_people_again(tmp_path, network):
    write(tmp_path / "people.npz", network)
    file = PeopleFile(tmp_path / "people.npz", network, 3)
    assert file.people.id.tolist() == [1, 2]
    assert file.people.next_id == 3
    np.testing.assert_allclose(file.people.mean, np.eye(3)[1:] * 0.9, rtol=1e-6)
    assert (file.people.last_seen > 1.7e9).all()
    file.close()
    with np.load(tmp_path / "people.npz") as archive:  # no pickle
        assert archive["mean"].dtype == np.float32


def test_mean_is_that_of_the_visits_and_old_ones_fade():
    people, rng = People(), np.random.default_rng(0)
    visits = rng.normal(0, 0.1, (MOST_VISITS + 3, 4))
    for visit in visits[:5]:
        people.add_visit(9, visit)
    np.testing.assert_allclose(people.mean[0], visits[:5].mean(axis=0), rtol=1e-5)
    mean = np.zeros(4)
    for visit in visits[5:]:
        people.add_visit(9, visit)
    for n, visit in enumerate(visits, start=1):
        share = 1 / min(n, MOST_VISITS)
        mean = (1 - share) * mean + share * visit
    np.testing.assert_allclose(people.mean[0], mean, rtol=1e-4)


def test_other_network_is_refused_in_one_line(tmp_path, network):
    write(tmp_path / "people.npz", network)
    network.write_bytes(b"another one")
    with pytest.raises(ConfigError, match="cannot be compared; give the same --reid") as refused:
        PeopleFile(tmp_path / "people.npz", network, 3)
    assert "\n" not in str(refused.value)


def damage(**changes):
    return lambda table: {**table, **changes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: {k: v for k, v in table.items() if k != "mean"}, "mean is missing"),
        (damage(format="tracklet-people/9"), "reads 'tracklet-people/1'"),
        (damage(id=np.array([2, 1])), "id must ascend"),
        (damage(id=np.array([1.0, 2.0])), "id must have 2 rows"),
        (damage(next_id=np.array(2)), "next_id must be above every id"),
        (damage(mean=np.full((2, 3), np.nan, np.float32)), "mean must be finite"),
        (damage(mean=np.ones((2, 3), np.float32)), "no longer than 1"),
        (damage(mean=np.zeros((2, 4), np.float32)), "embeddings of size 4"),
        (damage(n_visits=np.array([1, 0])), "n_visits must be 1 or more"),
        (damage(run=np.array([b"x"], object)), "is no file of"),
    ],
)
def test_malformed_file_is_refused(tmp_path, network, change, words):
    path = tmp_path / "people.npz"
    write(path, network)
    with np.load(path) as archive:
        table = change(dict(archive))
    np.savez(path, **table)
    with pytest.raises(ConfigError, match=words):
        PeopleFile(path, network, 3)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ConfigError, match="is no file of"):
        PeopleFile(path, network, 3)


def test_second_run_is_refused_while_the_first_one_lasts(tmp_path, network):
    words = "import sys; from pathlib import Path; from tracker.appearance.people import PeopleFile\n"
    words += "PeopleFile(sys.argv[1], Path(sys.argv[2]), 3)"
    command = [sys.executable, "-c", words, tmp_path / "people.npz", network]
    file = PeopleFile(tmp_path / "people.npz", network, 3)
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "another run is using it" in second.stderr
    file.close()
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_file_that_cannot_be_written_is_named(tmp_path, network, monkeypatch):
    with pytest.raises(OutputError, match="does not exist"):
        PeopleFile(tmp_path / "absent" / "people.npz", network, 3)
    with pytest.raises(OutputError, match="is a folder"):
        PeopleFile(tmp_path, network, 3)
    write(tmp_path / "people.npz", network)
    before = (tmp_path / "people.npz").read_bytes()
    file = PeopleFile(tmp_path / "people.npz", network, 3)
    (tmp_path / "people.npz.new").mkdir()
    with pytest.raises(WriteError, match="cannot be written"):
        file.save()
    assert (tmp_path / "people.npz").read_bytes() == before


def test_run_resumes_unless_another_one_wrote_the_file(tmp_path, network):
    path = tmp_path / "people.npz"
    write(path, network)
    file = PeopleFile(path, network, 3)
    state = file.people.state()
    file.close()
    killed = PeopleFile(path, network, 3)
    killed.people.restore(state)  # nothing was written since
    killed.save()
    killed.close()
    stopped = PeopleFile(path, network, 3)
    stopped.people.restore(state)  # the run itself wrote it
    stopped.close()
    write(path, network)
    late = PeopleFile(path, network, 3)
    with pytest.raises(ResumeError, match="would lose its people"):
        late.people.restore(state)
    late.close()
