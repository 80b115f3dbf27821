"""Classes of a detector: which may be one object, and which are people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tracker.errors import ConfigError
from tracker.types import BoolArray, IntArray

# Detectors take these for one another from frame to frame: a track of one may go on with the other.
RELATED = (
    {"car", "truck", "bus", "van", "lorry", "pickup"},
    {"bicycle", "bike", "motorcycle", "motorbike", "moped", "scooter"},
    {"cat", "dog", "fox"},
    {"cow", "horse", "sheep", "goat", "donkey"},
    {"person", "people", "pedestrian", "human", "man", "woman", "child", "rider", "cyclist"},
)
PEOPLE = RELATED[-1]


class Classes:
    """The classes of one stream.

    Detections of different groups are never one object: they do not suppress one another, and no track of one takes a
    detection of the other. Appearance tells people apart; other classes go by motion.
    """

    def __init__(self, names: Mapping[int, str] | Sequence[str] | None = None, all_embedded: bool = False) -> None:
        """names: by class number, as far as they are known. A class without a name is a group of its own.

        all_embedded: the re-ID network is for all classes, not for people alone. It also is where no name says people.
        Raises ConfigError for names that are none.
        """
        known = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names or {}
        if not isinstance(known, Mapping) or not all(
            isinstance(number, (int, np.integer)) and isinstance(name, str) for number, name in known.items()
        ):
            raise ConfigError(f"class names must be a list, or a dictionary such as {{0: 'person'}}, got {names!r}")
        words = {int(number): name.strip().lower() for number, name in known.items() if number >= 0}
        n = max(words, default=-1) + 1
        self._group = np.append(np.arange(n), -1)  # by class number; the last entry is read for all others
        for related in RELATED:
            members = sorted(number for number, word in words.items() if word in related)
            self._group[members] = members[:1] * len(members)
        people = [number for number, word in words.items() if word in PEOPLE]
        self.person = min(people, default=0)  # class number of boxes that the bundled detector adds
        self._all_people = not people
        self._all_embedded = all_embedded or not people

    def group(self, classes: IntArray) -> IntArray:
        """(N,) group of each class number (N,): the smallest class number of the group."""
        named = (classes >= 0) & (classes < len(self._group) - 1)
        return np.where(named, self._group[np.where(named, classes, -1)], classes)

    def people(self, classes: IntArray) -> BoolArray:
        """(N,) whether these class numbers (N,) are of people; all are where no name says people."""
        return np.full(len(classes), True) if self._all_people else np.asarray(self.group(classes) == self.person)

    def embedded(self, group: IntArray) -> BoolArray:
        """(N,) whether the re-ID network can tell objects of these groups (N,) apart."""
        return np.full(len(group), True) if self._all_embedded else np.asarray(group == self.person)
