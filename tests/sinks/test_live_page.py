"""The live page: who may see it, what it shows, that nobody slows the run; and in a browser as a phone shows it."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from tests.oracles.browser import BROWSER, Phone
from tests.synthetic.tracks import tracks_of
from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.errors import OutputError
from tracker.sinks import live_page
from tracker.sinks.base import RunFacts
from tracker.sinks.counts import CountsSink
from tracker.sinks.live_page import LivePage, parse_address
from tracker.types import Frame

RUN = RunFacts("cam", 160, 120, 10.0)
GREY = 90
BUSY_S = 200.0  # a browser beside other work of the machine


def frame_of(index: int, grey: int = GREY) -> Frame:
    return Frame(index, index / 10, np.full((120, 160, 3), grey, np.uint8), 160, 120)


def people(*ids: int):
    return tracks_of(ids, [[20 * i, 20, 20 * i + 15, 100] for i in ids])


def get(page: LivePage, path: str, query: str = "", host: str | None = None) -> tuple[int, bytes]:
    address = page.url.partition("?")[0] + path + query
    try:
        with urlopen(Request(address, headers={} if host is None else {"Host": host}), timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def state_of(page: LivePage):
    return json.loads(get(page, "state")[1])


class Viewer:
    """Reads the pictures of /video as they come."""

    def __init__(self, page: LivePage) -> None:
        self._answer = urlopen(f"{page.url}video", timeout=20)
        self.pictures: list[np.ndarray] = []
        self.ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while (line := self._answer.readline()) in (b"--frame\r\n", b"\r\n"):
            assert line == b"--frame\r\n"
            if self._answer.readline() != b"Content-Type: image/jpeg\r\n":
                break
            length = int(self._answer.readline().removeprefix(b"Content-Length: "))
            assert self._answer.readline() == b"\r\n"
            jpeg = self._answer.read(length)
            self.pictures.append(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
            assert self._answer.readline() == b"\r\n"
        self.ended = True


def wait_for(met, what: str, limit_s: float = 20.0) -> None:
    until_s = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ who may see it


def test_page_of_this_machine_needs_no_token_and_its_own_name():
    with LivePage("0", RUN) as page:
        assert page.url.startswith("http://127.0.0.1:")
        assert get(page, "")[1].startswith(b"<!DOCTYPE html>")
        assert get(page, "", host="localhost:1234")[0] == 200
        for path in ("", "state", "video"):
            assert get(page, path, host="evil.example")[0] == 403  # a name that leads here: DNS rebinding
        assert get(page, "etc/passwd")[0] == 404


def test_page_for_others_needs_the_token_it_printed(caplog):
    with LivePage("0.0.0.0:0", RUN) as page:
        token = page.url.rpartition("?token=")[2]
        assert len(token) >= 16
        assert f"live page at {page.url}" in caplog.text
        for path in ("", "state", "video"):
            assert get(page, path)[0] == 403
            assert get(page, path, "?token=")[0] == 403
            assert get(page, path, f"?token={token[:-1]}")[0] == 403
        for path in ("", "state"):
            assert get(page, path, f"?token={token}", host="tracker.example")[0] == 200
    with LivePage("0.0.0.0:0", RUN) as other:
        assert not other.url.endswith(token)


def test_token_of_the_environment_is_required_and_not_printed(caplog, monkeypatch):
    monkeypatch.setenv("TRACKLET_TOKEN", "härter")
    with LivePage("0", RUN) as page:
        assert get(page, "state")[0] == 403
        assert get(page, "state", "?token=h%C3%A4rter")[0] == 200
        assert "?token=$TRACKLET_TOKEN" in caplog.text
        assert "härter" not in caplog.text


@pytest.mark.parametrize("text", ["", "80000", "localhost", "0.0.0.0", "host:", "host:-1", "8000/", "x:y"])
def test_wrong_address_is_one_line(text):
    with pytest.raises(OutputError, match="--serve takes PORT or HOST:PORT"):
        parse_address(text)


def test_addresses_are_read():
    addresses = {"8000": ("127.0.0.1", 8000), "0.0.0.0:80": ("0.0.0.0", 80), "[::1]:81": ("::1", 81)}
    assert {text: parse_address(text) for text in addresses} == addresses


def test_taken_port_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OutputError, match=f"--serve {port}: no page can be opened there: Address already in use"):
            LivePage(str(port), RUN)


# ------------------------------------------------------------------------------------------------------- what it shows


def test_state_has_people_counts_and_events():
    line = LineCounter((0, 60), (160, 60), name="door")
    zone = ZoneCounter([(80, 60), (150, 60), (150, 110), (80, 110)], name="shop")
    with CountsSink([line], [zone]) as counts:
        run = replace(RUN, lines=[line], zones=[zone], counts=counts, overlay=counts.draw)
        with LivePage("0", run) as page:
            assert state_of(page) == {"source": "cam", "lost": False, "events": []}
            for index, tracks in enumerate([people(1), people(1, 5)]):
                counts.write(frame_of(index), tracks)
                page.write(frame_of(index), tracks)
            state = state_of(page)
    assert (state["frame"], state["time_s"]) == (2, 0.1)
    assert [person["id"] for person in state["people"]] == [1, 5]
    assert state["lines"] == [{"name": "door", "in": 0, "out": 0}]
    assert state["zones"] == [{"name": "shop", "inside": 1, "entered": 0, "left": 0}]
    assert [(e["kind"], e["id"]) for e in state["events"]] == [("start", 1), ("start", 5), ("zone", 5)]


def test_viewer_gets_pictures_with_tracks_and_the_end():
    with LivePage("0", RUN) as page:
        viewer = Viewer(page)
        for index in range(200):
            page.write(frame_of(index), people(3))
            if len(viewer.pictures) >= 3:
                break
            time.sleep(0.05)
    wait_for(lambda: viewer.ended, "the end of the stream")
    assert len(viewer.pictures) >= 3
    picture = viewer.pictures[-1].astype(int)
    assert picture.shape == (120, 160, 3)
    assert np.abs(picture[60, 140] - GREY).max() < 8
    assert np.abs(picture[60, 60] - GREY).max() > 40  # the left side of the box


def test_large_pictures_are_made_smaller():
    assert cv2.imdecode(np.frombuffer(live_page._jpeg(np.zeros((1080, 1920, 3), np.uint8)), np.uint8), 1).shape == (
        720, 1280, 3,
    )  # fmt: skip


def test_without_a_viewer_nothing_is_drawn(monkeypatch):
    drawn = []
    real = live_page.annotate
    monkeypatch.setattr(live_page, "annotate", lambda *words, **more: drawn.append(1) or real(*words, **more))
    with LivePage("0", RUN) as page:
        for index in range(5):
            page.write(frame_of(index), people(1))
        assert state_of(page)["frame"] == 5
        assert drawn == []
        viewer = Viewer(page)
        wait_for(lambda: page._screen.wanted, "the viewer")
        page.write(frame_of(5), people(1))
        wait_for(lambda: len(viewer.pictures) == 1, "the picture")
        assert drawn == [1]


def test_viewers_share_one_jpeg(monkeypatch):
    encoded = []
    real = live_page._jpeg
    monkeypatch.setattr(live_page, "_jpeg", lambda picture: encoded.append(1) or real(picture))
    with LivePage("0", RUN) as page:
        viewers = [Viewer(page) for _ in range(4)]
        wait_for(lambda: page._screen._n_waiting == 4, "the viewers")
        page.write(frame_of(0), people(1))
        wait_for(lambda: all(len(viewer.pictures) == 1 for viewer in viewers), "the picture")
    assert encoded == [1]


def test_client_that_takes_nothing_slows_no_frame_and_gets_the_newest():
    """Noise makes pictures of half a megabyte, so that the first ones fill all buffers."""
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    with LivePage("0", RUN) as page, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.connect(page._server.server_address)
        client.sendall(b"GET /video HTTP/1.0\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: page._screen.wanted, "the client")
        slowest_s = 0.0
        for index in range(30):
            start_s = time.monotonic()
            page.write(Frame(index, index / 10, noise, 1280, 720), people(1))
            slowest_s = max(slowest_s, time.monotonic() - start_s)
            time.sleep(0.02)
        assert slowest_s < 1.0  # a picture for a machine that is busy; the client blocks for 20 s
        assert page._screen.number < 10  # while it takes nothing, none is drawn for it
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 5.0  # closes though a client hangs


def test_paced_frames_come_at_their_times():
    start_s = time.monotonic()
    with LivePage("0", RUN, paced=True) as page:
        for index in range(6):
            page.write(frame_of(index), people(1))
        assert time.monotonic() - start_s >= 0.5
    with LivePage("0", RUN, paced=True, stopped=lambda: True) as page:
        start_s = time.monotonic()
        page.write(frame_of(0), people(1))
        page.write(frame_of(600), people(1))
        assert time.monotonic() - start_s < 10


def test_source_without_pictures_is_one_line():
    with LivePage("0", RUN) as page, pytest.raises(OutputError, match="has no pictures"):
        page.write(Frame(0, 0.0, None, 160, 120), people(1))


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_phone_shows_picture_people_counts_and_events(tmp_path):
    line = LineCounter((0, 60), (160, 60), name="<b>door</b>")
    stop = threading.Event()
    with CountsSink([line], []) as counts, Phone(tmp_path / "profile") as phone:
        page = LivePage("0.0.0.0:0", replace(RUN, lines=[line], counts=counts))
        with page:

            def run() -> None:
                for index in range(10**6):
                    tracks = people(1, 4) if index < 20 else people(4)
                    counts.write(frame_of(index), tracks)
                    page.write(frame_of(index), tracks)
                    if stop.wait(0.1):
                        return

            thread = threading.Thread(target=run)
            thread.start()
            try:
                phone.open(page.url)
                wait_for(
                    lambda: phone.run('window.video?.naturalWidth === 160 && n.textContent === "1"'), "the page", BUSY_S
                )
                wait_for(lambda: phone.run('document.querySelectorAll("li").length >= 3'), "the events", BUSY_S)
                assert phone.run("document.title") == "cam"
                assert phone.run('[...document.querySelectorAll(".chip")].map((chip) => chip.textContent)') == ["4"]
                assert phone.run('document.querySelector("#counts tr").innerText') == "<b>door</b>\t0 in, 0 out"
                events = phone.run('[...document.querySelectorAll("#events li span")].map((item) => item.textContent)')
                assert events[-2:] == ["person 4 is new", "person 1 is new"]  # the newest first
                assert any(text.startswith("person 1 is gone after 1.") for text in events)
                assert phone.run("document.documentElement.scrollWidth") <= 390  # nothing to scroll sideways
                shown = cv2.imdecode(np.frombuffer(phone.picture(), np.uint8), cv2.IMREAD_COLOR)
                assert np.abs(shown[200, 350].astype(int) - GREY).max() < 12  # the picture, as wide as the phone
            finally:
                stop.set()
                thread.join()
        status = 'document.getElementById("status").textContent'
        wait_for(lambda: phone.run(status) == "ended, or out of reach", "the end", BUSY_S)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_phone_without_the_token_is_told_so(tmp_path):
    with LivePage("0.0.0.0:0", RUN) as page, Phone(tmp_path / "profile") as phone:
        phone.open(page.url.partition("?")[0])
        wait_for(lambda: "Open the whole address" in phone.run('document.body?.innerText ?? ""'), "the answer", BUSY_S)
