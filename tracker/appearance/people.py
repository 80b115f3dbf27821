"""People of all runs so far, in a file: the number of each, and what they look like to one re-ID network.

`people.npz` holds numbers, no pictures; NumPy reads it without pickle:

format "tracklet-people/1"; network (name and SHA-256 of its file); id (P,) int64, ascending; mean (P, D) float32, the
mean of the embeddings of each visit, averaged over visits; n_visits (P,) int64; last_seen (P,) int64, Unix time in
seconds at which the run of the last visit was saved; next_id int64, the least number that was never used; run text, by
which a resumed run knows its own file.

See `association.tracklets` for what the means are good for.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from tracker.errors import ConfigError, OutputError, ResumeError, WriteError
from tracker.runtime.whole_file import lock, replace_file
from tracker.types import FeatureArray, FloatArray, IntArray, State

FORMAT = "tracklet-people/1"
MOST_VISITS = 20  # later visits weigh as much as the last one of so many: clothes and seasons change
LARGEST_ID = 2**53  # JSON and tables keep such numbers exactly
_COLUMNS = {"id": ("i", 1), "mean": ("f", 2), "n_visits": ("i", 1), "last_seen": ("i", 1)}  # kind and rank


class People:
    """A gallery with one row per person."""

    def __init__(self) -> None:
        self.id: IntArray = np.zeros(0, np.int64)  # (P,)
        self.mean: FeatureArray = np.zeros((0, 0), np.float32)  # (P, D)
        self.n_visits: IntArray = np.zeros(0, np.int64)  # (P,)
        self.last_seen: IntArray = np.zeros(0, np.int64)  # (P,) Unix seconds; 0: in this run
        self.next_id = 1  # the least number that was never used
        self.run = secrets.token_hex(8)  # by which a resumed run knows its own file
        self.before = ""  # the run that wrote the file which was read

    def __len__(self) -> int:
        return len(self.id)

    def add_visit(self, identity: int, mean: FloatArray) -> None:
        """A visit ended; mean (D,) of its embeddings. A number that is new becomes a person."""
        row = int(np.searchsorted(self.id, identity))
        if row == len(self.id) or self.id[row] != identity:
            if len(self.id) == 0:
                self.mean = np.zeros((0, len(mean)), np.float32)
            self.id = np.insert(self.id, row, identity)
            self.mean = np.insert(self.mean, row, 0.0, axis=0)
            self.n_visits = np.insert(self.n_visits, row, 0)
            self.last_seen = np.insert(self.last_seen, row, 0)
        self.n_visits[row] += 1
        self.mean[row] += (mean - self.mean[row]) / min(self.n_visits[row], MOST_VISITS)
        self.last_seen[row] = 0
        self.next_id = max(self.next_id, identity + 1)

    def state(self) -> State:
        return {
            "id": self.id, "mean": self.mean.copy(), "n_visits": self.n_visits.copy(),
            "last_seen": self.last_seen.copy(), "next_id": self.next_id, "run": self.run, "before": self.before,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Go on as the run that gave this state. Raises ResumeError where another one has written the file since."""
        if self.before not in (state["run"], state["before"]):
            raise ResumeError(
                "another run has written the file of --people since this one was interrupted, and resuming would lose "
                "its people; --overwrite starts again"
            )
        self.run, self.before = state["run"], state["before"]
        self.id, self.mean, self.n_visits = state["id"], state["mean"], state["n_visits"]
        self.last_seen, self.next_id = state["last_seen"], state["next_id"]


class PeopleFile:
    """The file of a run, locked from here to `close`.

    network: the file of the re-ID network. dim: size of its embeddings. Raises ConfigError where the file is malformed,
    of another network or in use, and OutputError where it cannot be made.
    """

    def __init__(self, path: str | Path, network: Path, dim: int) -> None:
        self.path = Path(path)
        self.people = People()
        self._network = f"{network.stem} {hashlib.sha256(network.read_bytes()).hexdigest()}"
        self._lock = self._locked()
        try:
            if self.path.exists():
                self._read(dim)
        except BaseException:
            self._lock.close()
            raise

    def save(self) -> None:
        """Write the file, as a whole or not at all. Raises WriteError."""
        people, now = self.people, int(time.time())
        body = io.BytesIO()
        np.savez_compressed(
            body, format=FORMAT, network=self._network, run=people.run, id=people.id, mean=people.mean,
            n_visits=people.n_visits, last_seen=np.where(people.last_seen == 0, now, people.last_seen),
            next_id=people.next_id,
        )  # fmt: skip
        try:
            replace_file(self.path, body.getvalue())
        except OSError as error:
            raise WriteError(f"{self.path}: the people cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Let other runs have it."""
        self._lock.close()

    def _locked(self) -> IO[bytes]:
        path = self.path
        try:
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; give the name of a file in it")
            if not path.parent.is_dir():
                raise OutputError(f"{path}: the folder {path.parent} does not exist")
            held = lock(path.with_name(path.name + ".lock"))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        if held is None:
            raise ConfigError(f"{path}: another run is using it; one at a time, or a file for each camera")
        return held

    def _read(self, dim: int) -> None:
        """Fill the gallery from the file."""
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                table = {name: archive[name] for name in archive.files}
        except Exception as error:  # zip, zlib and NumPy raise many types
            raise ConfigError(f"{self.path}: is no file of `track --people` ({error})") from error
        wrong = _fault(table)
        if wrong:
            raise ConfigError(f"{self.path}: is no file of `track --people`, or damaged: {wrong}")
        network, people = str(table["network"]), self.people
        if network != self._network:
            raise ConfigError(
                f"{self.path}: its people were embedded by {_short(network)}, this run embeds with "
                f"{_short(self._network)}, and the two cannot be compared; give the same --reid or another file"
            )
        if len(table["id"]) and table["mean"].shape[1] != dim:
            raise ConfigError(
                f"{self.path}: is damaged: embeddings of size {table['mean'].shape[1]}, of {_short(network)} they have "
                f"{dim}"
            )
        people.id, people.mean = table["id"].astype(np.int64), table["mean"].astype(np.float32)
        people.n_visits, people.last_seen = table["n_visits"].astype(np.int64), table["last_seen"].astype(np.int64)
        people.next_id, people.before = int(table["next_id"]), str(table["run"])


def _fault(table: dict[str, Any]) -> str | None:
    """What is wrong with the arrays of a file; None: nothing."""
    scalars = {"format": "U", "network": "U", "run": "U", "next_id": "iu"}
    for name in (*scalars, *_COLUMNS):
        if name not in table:
            return f"{name} is missing"
    for name, kinds in scalars.items():
        if table[name].shape != () or table[name].dtype.kind not in kinds:
            return f"{name} must be one {'number' if name == 'next_id' else 'text'}"
    if str(table["format"]) != FORMAT:
        return f"its format is {str(table['format'])[:40]!r}, this program reads {FORMAT!r}"
    n = len(np.atleast_1d(table["id"]))
    for name, (kind, rank) in _COLUMNS.items():
        if table[name].ndim != rank or table[name].dtype.kind != kind or len(table[name]) != n:
            return f"{name} must have {n} rows"
    ids, mean = table["id"], table["mean"]
    if n and (ids[0] < 1 or (np.diff(ids) <= 0).any()):
        return "id must ascend from 1 or more"
    if not max(ids.max(initial=0), 0) < int(table["next_id"]) <= LARGEST_ID:
        return "next_id must be above every id"
    if not np.isfinite(mean).all() or (np.square(mean.astype(np.float64)).sum(axis=1) > 1.001).any():
        return "mean must be finite and no longer than 1"
    if (table["n_visits"] < 1).any():
        return "n_visits must be 1 or more"
    return None


def _short(network: str) -> str:
    """Its name and the first digits of its hash."""
    name, _, digest = network[:200].rpartition(" ")
    return f"{name} ({digest[:8]})"
