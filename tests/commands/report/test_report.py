"""`track-report`: the page agrees with pandas on the table, and a browser shows it."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker import Tracks, track_video
from tracker.commands.report import cli, facts, pictures
from tracker.commands.report.page import clock, ticks
from tracker.commands.report.table import TableError, read_table
from tracker.errors import ConfigError, SourceError
from tracker.eval.mot_files import MotFileError
from tracker.sinks.open import open_sink
from tracker.types import Frame

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A synthetic sequence and its results in every format that the report reads."""
    folder = tmp_path_factory.mktemp("tracked")
    scene = make_scene(3, n_people=5, n_frames=60, width=320, height=240)
    write_sequence(scene, folder / "SYN", video=folder / "video.avi")
    sinks = [open_sink(folder / f"tracks.{ending}") for ending in FORMATS]
    for frame, tracks in track_video(folder / "SYN", detections="public"):
        for sink in sinks:
            sink.write(frame, tracks)
    for sink in sinks:
        sink.close()
    return folder


FORMATS = ("csv", "jsonl", "txt", "db", *(["parquet"] if find_spec("pyarrow") else []))
HEADER = "frame,time_s,id,x1,y1,x2,y2,score,class,source\n"


class Page(html.parser.HTMLParser):
    """IDs, cards, links and timeline rows of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.cards, self.links, self.rows = set(), [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.cards += [values] if tag == "figure" else []
        self.links += [values[key] for key in ("src", "href") if key in values]
        self.rows += values.get("class") == "row"


def write_csv(path, rows):
    """rows: (frame from 1, time_s, id, source)."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["frame", "time_s", "id", "x1", "y1", "x2", "y2", "score", "class", "source"])
        writer.writerows((f, t, i, 10 * i, 10, 10 * i + 8, 30, 0.9, 0, source) for f, t, i, source in rows)
    return path


# The page


def test_page_has_card_and_crop_of_each_person(tracked, tmp_path):
    out = cli.write_report(tracked / "tracks.csv", video=str(tracked / "video.avi"), out=tmp_path / "page.html")
    page = Page(out.read_text())
    table = pd.read_csv(tracked / "tracks.csv")
    times = table.groupby("id").time_s
    assert [int(card["data-id"]) for card in page.cards] == times.min().reset_index().sort_values(
        ["time_s", "id"]
    ).id.tolist()
    for card in page.cards:
        assert float(card["data-start"]) == pytest.approx(times.min()[int(card["data-id"])], abs=1e-3)
    assert page.rows == len(page.cards)
    assert {"curve", "trails", "heatmap", "timeline", "people"} <= page.ids
    assert sum(link.startswith("data:image/jpeg") for link in page.links) == len(page.cards) + 2


def test_page_loads_nothing_from_elsewhere(tracked, tmp_path):
    out = cli.write_report(tracked / "tracks.csv", video=str(tracked / "video.avi"), out=tmp_path / "page.html")
    assert all(link.startswith(("data:", "#")) for link in Page(out.read_text()).links)
    assert not re.findall(r"https?://|@import|url\(", out.read_text())


def test_all_formats_give_same_people(tracked, tmp_path):
    by_format = {}
    for ending in FORMATS:
        table = read_table(tracked / f"tracks.{ending}").timed(25.0)
        by_format[ending] = [
            (p.id, sum(p.n_of_kind.values()), round(p.start_s, 3), round(p.end_s, 3)) for p in facts.people(table)
        ]
    assert all(by_format[ending] == by_format["csv"] for ending in FORMATS)
    page = cli.write_report(tracked / "tracks.txt", out=tmp_path / "page.html", fps=25.0).read_text()
    assert "The format does not say" in page


@pytest.mark.parametrize("ending", ["csv", "jsonl", "txt"])
def test_byte_order_mark_of_excel_is_skipped(tracked, tmp_path, ending):
    marked = tmp_path / f"marked.{ending}"
    marked.write_bytes(b"\xef\xbb\xbf" + (tracked / f"tracks.{ending}").read_bytes())
    plain, found = read_table(tracked / f"tracks.{ending}"), read_table(marked)
    np.testing.assert_array_equal(found.boxes, plain.boxes)
    np.testing.assert_array_equal(found.frame, plain.frame)


def test_box_without_area_gets_no_picture(tracked, tmp_path):
    lines = (tracked / "tracks.txt").read_text() + "1,999,20,20,0,30,1,-1,-1,-1\n"
    (tmp_path / "t.txt").write_text(lines)
    page = cli.write_report(
        tmp_path / "t.txt", video=str(tracked / "video.avi"), out=tmp_path / "page.html"
    ).read_text()
    assert "999" in page


def test_page_without_video_has_no_pictures(tracked, tmp_path):
    page = Page(cli.write_report(tracked / "tracks.csv", out=tmp_path / "page.html").read_text())
    assert page.cards
    assert "trails" not in page.ids


def test_names_are_escaped(tmp_path):
    tracks = write_csv(tmp_path / "a<b>&.csv", [(1, 0.0, 1, "detected")])
    counts = tmp_path / "counts.csv"
    counts.write_text('time_s,frame,kind,name,id,direction,stay_s\n0,1,line,"<script>x</script>",1,in,\n')
    page = cli.write_report(tracks, counts=counts).read_text()
    assert "<b>&." not in page
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page


def test_read_counts_gives_times_by_name_and_direction(tmp_path):
    tracks = write_csv(tmp_path / "t.csv", [(1, 0.0, 1, "detected")])
    counts = tmp_path / "counts.csv"
    counts.write_text(
        "\ufefftime_s,frame,kind,name,id,direction,stay_s\n"
        "0,1,line,door,1,in,\n1,2,line,door,2,in,\n2,3,line,door,1,out,\n3,4,zone,shop,3,entered,\n"
    )
    assert cli.read_counts(counts) == {
        ("line", "door", "in"): [0.0, 1.0],
        ("line", "door", "out"): [2.0],
        ("zone", "shop", "entered"): [3.0],
    }
    assert "counts" in Page(cli.write_report(tracks, counts=counts).read_text()).ids


@pytest.mark.parametrize("time_s", ["soon", "", "nan", "inf"])
def test_read_counts_bad_time_is_named(tmp_path, time_s):
    (tmp_path / "c.csv").write_text(f"time_s,kind,name,direction\n{time_s},line,door,in\n")
    with pytest.raises(ConfigError, match=r"c\.csv: line 2: time_s must be a number of seconds, got '"):
        cli.read_counts(tmp_path / "c.csv")


def test_counts_chart_rises_by_one_at_each_event(tmp_path):
    tracks = write_csv(tmp_path / "t.csv", [(f + 1, f / 10, 1, "detected") for f in range(100)])
    events = [(0.3, "in"), (2.5, "in"), (2.5, "in"), (4.0, "out"), (9.9, "in"), (30.0, "in")]
    counts = tmp_path / "counts.csv"
    counts.write_text("time_s,kind,name,direction\n" + "".join(f"{t},line,door,{d}\n" for t, d in events))
    page = cli.write_report(tracks, counts=counts).read_text()
    for direction, n in (("in", 5), ("out", 1)):
        assert re.search(rf'<i class="key line to-{direction}"></i>{n} {direction}\n', page)
        (path,) = re.findall(rf'<path class="to-{direction}" d="M0 5(.*?)H10\.0"', page)
        steps = [(float(t), 5 - int(y)) for t, y in re.findall(r"H([\d.]+)V(\d+)", path)]
        # An event after the last box is drawn at the end.
        assert steps == [(min(t, 10.0), i) for i, t in enumerate((t for t, d in events if d == direction), start=1)]


# Axes


@pytest.mark.parametrize(
    ("end_s", "labels"),
    [
        (10, "0 s,2 s,4 s,6 s,8 s,10 s"),
        (0.7, "0 s,0.1 s,0.2 s,0.3 s,0.4 s,0.5 s,0.6 s,0.7 s"),
        (59.9, "0 s,10 s,20 s,30 s,40 s,50 s"),
        (67.3, "0:00,0:10,0:20,0:30,0:40,0:50,1:00"),
        (79.5, "0:00,0:10,0:20,0:30,0:40,0:50,1:00,1:10"),
        (1000, "0:00,5:00,10:00,15:00"),
        (9000, "0:00,20:00,40:00,1:00:00,1:20:00,1:40:00,2:00:00,2:20:00"),
    ],
)
def test_ticks_are_round(end_s, labels):
    assert ",".join(label for _, label in ticks(end_s)) == labels


def test_ticks_of_any_length_are_few_and_in_place():
    """Round: a whole number of steps of 1, 2, 3 (30 s) or 5 and zeros, of seconds, minutes or hours."""
    for end_s in np.geomspace(1e-4, 1e12, 2000).tolist():
        times = [time_s for time_s, _ in ticks(end_s)]
        assert 3 <= len(times) <= 9
        assert times[0] == 0 <= times[-1] <= end_s * 1.0001 < times[-1] + 1.002 * times[1]
        np.testing.assert_allclose(np.diff(times), times[1])
        unit = 1 if times[1] < 60 else 60 if times[1] < 3600 else 3600
        assert f"{times[1] / unit:.3e}"[:5] in ("1.000", "2.000", "3.000", "5.000")


# Pictures


def test_trails_pass_every_foot_point(tmp_path):
    rng = np.random.default_rng(0)
    feet = np.cumsum(rng.normal(0, 6, (300, 2)), axis=0) + 900
    feet[200:] += 800  # farther than a person walks: a new line
    feet = feet.round(1)
    rows = "".join(f"{f},{f / 10},7,{x - 20},{y - 90},{x + 20},{y},1,0,detected\n" for f, (x, y) in enumerate(feet, 1))
    (tmp_path / "t.csv").write_text(HEADER + rows + "5,0.5,9,10,10,20,30,1,0,detected\n")
    paths = pictures.trails(read_table(tmp_path / "t.csv"), width=2560)
    assert paths[9] == "M15.0 30.0h0", "a single point is a dot"
    pieces = [
        np.array([point.split() for point in piece.removesuffix("h0").split("L")], float)
        for piece in paths[7].split("M")[1:]
    ]
    assert len(pieces) == 2
    assert sum(map(len, pieces)) < 290, "points that change nothing are left out"
    for piece, part in zip(pieces, (feet[:200], feet[200:]), strict=True):
        # Slow: many points along the line; the nearest of them is the distance.
        line = np.concatenate([np.linspace(a, b, 100) for a, b in pairwise(piece)])
        far = np.linalg.norm(part[:, None] - line, axis=2).min(axis=1)
        assert far.max() < 2.2, "a pixel of the page is two of the source"


@pytest.mark.parametrize("stride", [1, 3])
def test_heat_map_counts_seconds_where_a_person_stood(tmp_path, monkeypatch, stride):
    """Frames that the tracker passed over count as their neighbours do; frames without tracks count nothing."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(60):
        writer.write(np.full((120, 160, 3), 90, np.uint8))
    writer.release()
    made = []

    class Spy(pictures.HeatmapSink):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(pictures, "HeatmapSink", Spy)
    # One person at (50, 70) in the first and the last two seconds, no box between.
    rows = [f"{f + 1},{f / 10},1,45,30,55,70,1,0,detected\n" for f in range(0, 60, stride) if not 21 <= f < 39]
    (tmp_path / "t.csv").write_text(HEADER + "".join(rows))
    out = pictures.take_pictures(str(tmp_path / "v.avi"), read_table(tmp_path / "t.csv"))
    assert made[0].seconds[70, 50] == pytest.approx(4.2, abs=0.01)
    picture = cv2.imdecode(np.frombuffer(out.heatmap, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (120, 160, 3)
    assert picture[70, 50].sum() > 2 * picture[20, 20].sum()


def test_heat_map_of_absurd_boxes_ends(tracked, tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + "1,0,1,-1e9,-1e9,1e9,1e9,1,0,detected\n")
    cli.write_report(tmp_path / "t.csv", video=str(tracked / "video.avi"))


# Facts


def test_people_gaps_stretches_and_sources(tmp_path):
    rows = [(f, f / 10, 7, "detected") for f in (0, 1, 2)] + [(3, 0.3, 7, "proposed")]
    rows += [(f, f / 10, 7, "detected") for f in (8, 9)]
    rows += [(f, f / 10, 2, "detected") for f in range(10)]
    table = read_table(write_csv(tmp_path / "t.csv", [(f + 1, t, i, s) for f, t, i, s in rows]))
    other, person = facts.people(table)
    assert (other.id, other.gaps_s, len(other.stretches)) == (2, (), 1)
    assert [(round(s.start_s, 3), round(s.end_s, 3), s.kind) for s in person.stretches] == [
        (0.0, 0.3, "detected"),
        (0.3, 0.4, "proposed"),
        (0.8, 1.0, "detected"),
    ]
    assert person.gaps_s == pytest.approx((0.4,))
    assert person.seen_s == pytest.approx(0.6)
    assert person.n_of_kind == {"detected": 5, "proposed": 1}


def test_people_stride_makes_no_gaps(tmp_path):
    table = read_table(write_csv(tmp_path / "t.csv", [(f, f / 25, 1, "detected") for f in range(1, 60, 3)]))
    (person,) = facts.people(table)
    assert person.gaps_s == ()
    assert len(person.stretches) == 1


@pytest.mark.parametrize("n_bins", [1, 7, 50])
def test_people_over_time_agrees_with_pandas(tracked, n_bins):
    table = read_table(tracked / "tracks.csv")
    edges, most = facts.people_over_time(table, n_bins)
    per_frame = pd.read_csv(tracked / "tracks.csv").groupby("time_s").id.nunique()
    middle = per_frame.index + facts.frame_length_s(table) / 2
    bins = pd.cut(middle, edges, right=False, labels=False)
    slow = per_frame.groupby(bins).max()
    np.testing.assert_array_equal(most, [slow.get(i, 0) for i in range(n_bins)])


@pytest.mark.parametrize(("seconds", "text"), [(7.44, "7.4 s"), (65, "1:05"), (7389, "2:03:09"), (0, "0.0 s")])
def test_clock_writes_seconds_minutes_hours(seconds, text):
    assert clock(seconds) == text


def test_page_of_empty_result(tmp_path):
    page = cli.write_report(write_csv(tmp_path / "t.csv", [])).read_text()
    assert not Page(page).cards
    (tmp_path / "t.txt").write_text("")
    assert "<b>0</b><span>people</span>" in cli.write_report(tmp_path / "t.txt", out=tmp_path / "u.html").read_text()


def test_people_over_time_short_video_has_one_bin_per_frame(tmp_path):
    """A bin without a frame would count as no person in view."""
    rows = [(f, round((f - 1) / 30, 3), i, "detected") for f in range(1, 51) for i in range(1, 2 + f % 3)]
    edges, most = facts.people_over_time(read_table(write_csv(tmp_path / "t.csv", rows)))
    assert len(edges) == 51
    assert most.tolist() == [1 + f % 3 for f in range(1, 51)]


# Mistakes


def test_run_of_a_database_is_chosen(tracked, tmp_path):
    """One run needs no choice; of several each gives its own people, and none is guessed."""
    path = tmp_path / "t.db"
    for n_frames in (2, 3):
        with open_sink(path, name=f"{n_frames}.mp4") as sink:
            for index in range(n_frames):
                sink.write(Frame(index, index / 10, None, 64, 48), Tracks())
    with pytest.raises(TableError, match=r"choose one of its runs with --run; there are: 1 of 2\.mp4; 2 of 3\.mp4"):
        read_table(path)
    with pytest.raises(TableError, match="choose one of its runs with --run"):
        read_table(path, 3)
    assert len(read_table(path, 2)) == 0
    page = tmp_path / "page.html"
    assert cli.main([str(tracked / "tracks.db"), "--run", "1", "--out", str(page)]) == 0
    assert len(Page(page.read_text()).cards) == len(set(read_table(tracked / "tracks.csv").id))
    with pytest.raises(TableError, match="holds one run"):
        read_table(tracked / "tracks.csv", 1)


@pytest.mark.parametrize("ending", [ending for ending in FORMATS if ending in ("db", "parquet")])
def test_damaged_binary_table_is_one_line(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    for data in (None, b"", b"text" * 100):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(TableError, match=rf"t\.{ending}: (cannot be read|is no database)") as caught:
            read_table(path)
        assert "\n" not in str(caught.value)


def test_parquet_of_another_program_names_the_missing_columns(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pd.DataFrame({"frame": [1], "id": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match="lacks the columns time_s, x1"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "frame,id\n1,1\n", r"t\.csv: the header lacks time_s, x1"),
        (
            "t.csv",
            HEADER + "1,0,x,1,1,2,2,1,0,detected\n",
            r"line 2 is not a box",
        ),
        ("t.csv", HEADER + "0,0,1,1,1,2,2,1,0,detected\n", r"count from 1"),
        ("t.csv", HEADER + "1,0,1,1,1,2,2,1,0,seen\n", r"line 2 is not a box"),
        ("t.jsonl", '{"frame": 1}\n', r"t\.jsonl: line 1 is not a frame"),
        ("t.jsonl", "{\n", r"line 1 is not a frame"),
        ("t.json", "{}", r"COCO JSON has no sources"),
    ],
)
def test_malformed_table_is_named_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=said) as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)


def test_missing_and_existing_files_are_refused(tmp_path, capsys):
    assert cli.main([str(tmp_path / "t.csv")]) == 2
    assert "t.csv: cannot be read" in capsys.readouterr().err
    with pytest.raises(MotFileError):
        read_table(tmp_path / "t.txt")
    tracks = write_csv(tmp_path / "t.csv", [])
    assert cli.main([str(tracks)]) == 0
    assert cli.main([str(tracks)]) == 2
    assert "t.html: exists already; pass --overwrite" in capsys.readouterr().err
    assert cli.main([str(tracks), "--overwrite"]) == 0
    with pytest.raises(ConfigError, match="--fps must be a positive number, got 0"):
        cli.write_report(tracks, fps=0, overwrite=True)
    (tmp_path / "c.csv").write_text("name\nx\n")
    with pytest.raises(ConfigError, match="lacks time_s, kind, direction"):
        cli.write_report(tracks, counts=tmp_path / "c.csv", overwrite=True)


def test_video_shorter_than_tracks_is_refused(tracked, tmp_path):
    tracks = write_csv(tmp_path / "t.csv", [(500, 20.0, 1, "detected")])
    with pytest.raises(SourceError, match="has 60 frames, the tracks reach frame 500; do they belong together"):
        cli.write_report(tracks, video=str(tracked / "video.avi"))
    assert not (tmp_path / "t.html").exists()


# A browser


def browse(page, tmp_path, *more):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_browser_shows_page_and_sorts_cards(tracked, tmp_path):
    out = cli.write_report(tracked / "tracks.csv", video=str(tracked / "video.avi"), out=tmp_path / "page.html")
    # Read what is drawn, click on a button, read again.
    probe = """<script>addEventListener("load", () => {
      const ids = () => [...document.querySelectorAll("figure")].map(card => +card.dataset.id);
      const seen = () => [...document.querySelectorAll("figure")].map(card => +card.dataset.seen);
      document.querySelector('[data-by="seen"]').click(); const longest = seen();
      document.querySelector('[data-by="id"]').click();
      const bars = [...document.querySelectorAll(".row i")].map(bar => bar.getBoundingClientRect());
      document.title = JSON.stringify({ids: ids(), longest, wide: document.documentElement.scrollWidth,
        window: innerWidth, bars: bars.length, drawn: bars.filter(bar => bar.width >= 1 && bar.height > 4).length,
        pictures: [...document.images].filter(image => image.naturalWidth > 0).length});
    });</script></body>"""
    probed = tmp_path / "probed.html"
    # Not lazy, so that all pictures are there when the page is loaded.
    probed.write_text(out.read_text().replace(' loading="lazy"', "").replace("</body>", probe))
    shown = browse(probed, tmp_path, "--window-size=900,1200", "--virtual-time-budget=5000", "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1).replace("&quot;", '"'))
    table = pd.read_csv(tracked / "tracks.csv")
    assert found["ids"] == sorted(table.id.unique())
    assert found["longest"] == sorted(found["longest"], reverse=True)
    assert found["wide"] <= found["window"], "the page must not scroll sideways"
    assert found["bars"] == found["drawn"] > 0
    assert found["pictures"] == len(found["ids"]) + 2
    shot = tmp_path / "page.png"
    browse(out, tmp_path, "--window-size=900,1200", f"--screenshot={shot}")
    assert shot.stat().st_size > 20_000, "an empty page compresses to nothing"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_browser_highlights_row_trail_and_card_of_person_under_pointer(tracked, tmp_path):
    out = cli.write_report(tracked / "tracks.csv", video=str(tracked / "video.avi"), out=tmp_path / "page.html")
    probe = """<script>addEventListener("load", () => {
      const seen = [];
      const over = target => {
        target.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
        seen.push([...document.querySelectorAll(".on")].map(part => part.localName + part.dataset.id).sort());
      };
      const dim = () => getComputedStyle(document.querySelector('#trails path[data-id="1"]')).opacity;
      over(document.querySelector('.row[data-id="2"] i')); const faded = dim();
      over(document.querySelector('#trails path[data-id="1"]')); const full = dim();
      over(document.querySelector("figure img")); over(document.querySelector("h1"));
      document.title = JSON.stringify({seen, opacities: [faded, full, dim()]});
    });</script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(out.read_text().replace("</body>", probe))
    shown = browse(probed, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1).replace("&quot;", '"'))
    first = Page(out.read_text()).cards[0]["data-id"]
    assert found["seen"] == [[f"a{i}", f"figure{i}", f"path{i}"] for i in ("2", "1", first)] + [[]]
    assert found["opacities"] == ["0.15", "1", "1"]


def test_table_frames_equal_written_tracks(tracked):
    """The tracks of the table are those of the tracker, frame by frame."""
    of_frames = read_table(tracked / "tracks.csv").of_frames()
    for frame, tracks in track_video(tracked / "SYN", detections="public"):
        assert isinstance(frame, Frame)
        read = of_frames.get(frame.index, Tracks())
        np.testing.assert_array_equal(read.id, tracks.id)
        np.testing.assert_allclose(read.xyxy, tracks.xyxy, atol=0.006)
        np.testing.assert_array_equal(read.source, tracks.source)
