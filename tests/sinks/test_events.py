"""Events of tracks, lines and zones as JSON lines."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from tests.synthetic.tracks import tracks_of
from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.analytics.ground import GroundPlane
from tracker.errors import OutputError
from tracker.sinks.base import RunFacts
from tracker.sinks.counts import CountsSink
from tracker.sinks.events import EventsSink
from tracker.types import Frame

RUN = RunFacts("cam", 160, 120, 10.0, started="2026-11-30 21:15:02.123456", gone_s=0.25)


def frame_of(index: int) -> Frame:
    return Frame(index, index / 10, None, 160, 120)


def people(**feet):
    """Rows of identities, as p1=(x, y) of the feet."""
    return tracks_of([int(name[1:]) for name in feet], [[x - 5, y - 20, x + 5, y] for x, y in feet.values()])


def events_of(steps, path, run=RUN, **more):
    """The events in the file of a sink that got these tracks, one frame each; the counters are fed before it."""
    with EventsSink(str(path), run, **more) as sink:
        for index, tracks in enumerate(steps):
            if run.counts is not None:
                run.counts.write(frame_of(index), tracks)
            sink.write(frame_of(index), tracks)
    return [json.loads(line) for line in path.read_text().splitlines()]


def brief(events):
    return [(event["seq"], event["frame"], event["kind"], event["id"]) for event in events]


def test_tracks_start_and_end_once_each(tmp_path):
    """Identity 1 is away for 0.2 s, which is no end; 2 for longer than 0.25 s; 3 is there at the end of the source."""
    here, both, other = people(p1=(20, 30)), people(p1=(20, 30), p2=(90, 40)), people(p3=(50, 50))
    steps = [both, here, people(), here, here, *[other] * 4]
    events = events_of(steps, tmp_path / "e.jsonl")
    assert brief(events) == [
        (1, 1, "start", 1),
        (2, 1, "start", 2),
        (3, 4, "end", 2),
        (4, 6, "start", 3),
        (5, 8, "end", 1),
        (6, 9, "end", 3),
    ]
    assert [(e["stay_s"], e["last_s"]) for e in events if e["kind"] == "end"] == [(0, 0), (0.4, 0.4), (0.3, 0.8)]
    assert events[0] == {
        "version": 1, "run": "2026-11-30 21:15:02.123456", "seq": 1, "source": "cam", "frame": 1, "time_s": 0.0,
        "kind": "start", "id": 1, "class": 0, "class_name": "person", "xyxy": [15.0, 10.0, 25.0, 30.0], "score": 0.5,
    }  # fmt: skip
    assert events[2]["xyxy"] == [85.0, 20.0, 95.0, 40.0]  # where it was last


def test_line_and_zone_events_carry_the_box_of_their_person(tmp_path):
    line = LineCounter((0, 60), (160, 60), name="door")
    zone = ZoneCounter([(80, 10), (150, 10), (150, 110), (80, 110)], name="shop", patience_s=0.25)
    steps = [people(p1=(20, 30), p2=(100, 30)), people(p1=(20, 90), p2=(100, 40)), people(p1=(20, 90), p2=(20, 40))]
    steps += [people(p4=(100, 30))]
    with CountsSink([line], [zone]) as counts:
        events = events_of(steps, tmp_path / "e.jsonl", replace(RUN, counts=counts))
        counted = [e for e in events if e["kind"] in ("line", "zone")]
        assert [(e["frame"], e["kind"], e["name"], e["direction"], e["id"]) for e in counted] == [
            (1, "zone", "shop", "appeared", 2),
            (2, "line", "door", "in", 1),
            (3, "zone", "shop", "left", 2),
            (4, "zone", "shop", "appeared", 4),
            (4, "zone", "shop", "ended", 4),  # the source is over
        ]
        assert counted[1]["xyxy"] == [15.0, 70.0, 25.0, 90.0]
        assert 0.1 < counted[2]["stay_s"] < 0.2  # to the moment of crossing
        assert brief(events)[-4:] == [(8, 4, "zone", 4), (9, 4, "end", 1), (10, 4, "end", 2), (11, 4, "end", 4)]
    assert counts.text().splitlines()[1].startswith("shop        0 entered, 1 left, 1 inside at the end")


def test_lines_are_on_disk_when_write_returns(tmp_path):
    path = tmp_path / "e.jsonl"
    with EventsSink(str(path), RUN) as sink:
        sink.write(frame_of(0), people(p7=(20, 30)))
        assert json.loads(path.read_text())["id"] == 7
    with pytest.raises(OutputError, match="--overwrite"):
        EventsSink(str(path), RUN)


def test_standard_output_gets_lines(capsys):
    with EventsSink("-", RUN) as sink:
        sink.write(frame_of(0), people(p7=(20, 30)))
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["start", "end"]


def test_live_events_say_when_the_frame_came(tmp_path):
    class Feed:
        dropped = losses = 0
        lost = False

        def age_s(self, time_s: float) -> float:
            return 2.0

    before_s = time.time()
    (start, _) = events_of([people(p1=(20, 30))], tmp_path / "e.jsonl", replace(RUN, feed=Feed()))
    came_s = datetime.strptime(start["wall"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
    assert before_s - 2.01 <= came_s <= time.time() - 1.99


def test_embedding_is_the_last_known_one(tmp_path):
    rows = people(p1=(20, 30), p2=(90, 40))
    first = replace(rows, features=np.array([[np.nan, np.nan], [0.6, 0.8]], np.float32))
    second = replace(rows, features=np.array([[1.0, 0.0], [np.nan, np.nan]], np.float32))
    events = events_of([first, second], tmp_path / "e.jsonl", embeddings=True)
    assert [(e["kind"], e["id"], e["embedding"]) for e in events] == [
        ("start", 1, None),
        ("start", 2, [0.6, 0.8]),
        ("end", 1, [1.0, 0.0]),
        ("end", 2, [0.6, 0.8]),
    ]
    with pytest.raises(OutputError, match="carry no embeddings"):
        events_of([rows], tmp_path / "f.jsonl", embeddings=True)


def test_places_on_the_floor_are_metres_or_null(tmp_path):
    plane = GroundPlane(np.diag([0.01, 0.01, 1.0]))
    (start, _) = events_of([people(p1=(20, 30))], tmp_path / "e.jsonl", replace(RUN, ground=plane))
    assert (start["gx"], start["gy"]) == (0.2, 0.3)


WRONG = [
    ("events.txt", "events.txt: events go to - "),
    ("localhost:1883/topic", "events go to - "),
    ("http://", "names no host"),
    ("http://host:port/", "is no address of a server"),
    ("mqtt://host:1883", "needs a topic without + and #, as in mqtt://HOST/tracklet/events"),
    ("mqtt://me:secret@host/a/#", "mqtt://me:***@host/a/#: needs a topic"),
]


@pytest.mark.parametrize(("target", "said"), WRONG)
def test_wrong_target_is_one_line(target, said):
    with pytest.raises(OutputError) as caught:
        EventsSink(target, RUN)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
