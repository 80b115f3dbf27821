"""Identity switches, counted one person and one frame at a time."""

from __future__ import annotations

from tests.oracles.plain_tracker import iou_of
from tracker.types import Tracks


def id_switches(truth, outputs: list[Tracks], min_iou: float = 0.5) -> int:
    """How often a person's identity differs from the one they had last (CLEAR's rule).

    Every person keeps their last identity where it still overlaps them; the others take the best free box, most
    overlapping pair first.
    """
    last: dict[int, int] = {}
    switches = 0
    for people, tracks in zip(truth, outputs, strict=True):
        overlaps = {
            (person, row): iou_of(box, tracks.xyxy[row])
            for person, box in enumerate(people)
            for row in range(len(tracks))
        }
        pairs = [pair for pair, overlap in overlaps.items() if overlap >= min_iou]
        pairs.sort(key=lambda pair: (last.get(pair[0]) != int(tracks.id[pair[1]]), -overlaps[pair]))
        taken_people: set[int] = set()
        taken_rows: set[int] = set()
        for person, row in pairs:
            if person in taken_people or row in taken_rows:
                continue
            taken_people.add(person)
            taken_rows.add(row)
            identity = int(tracks.id[row])
            if last.get(person, identity) != identity:
                switches += 1
            last[person] = identity
    return switches
