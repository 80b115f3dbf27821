"""`--serve PORT`: a web page with the annotated picture, people in view, counts and events, while the video runs."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import socket
import socketserver
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Condition, Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tracker.errors import OutputError
from tracker.runtime.signals import SLICE_S, check
from tracker.sinks.base import ClosedByWith, RunFacts
from tracker.sinks.drawing import ClassNames, Trails, annotate, caption, identity_colour
from tracker.sinks.events import Event, Events
from tracker.types import Frame, ImageArray, Tracks

log = logging.getLogger(__name__)

TOKEN = "TRACKLET_TOKEN"  # the environment variable
KEPT_EVENTS = 100  # that a page shows when it is opened
LONG_SIDE = 1280  # pixels of the picture: more than a phone shows, and half the bytes of 1920x1080
QUALITY = 80  # of its JPEG
SEND_BUFFER = 1 << 17  # bytes: a slow network delays pictures by one or two, not by seconds
SILENT_S = 20.0  # a client that takes nothing for so long is dropped
RATE_FRAMES = 30  # over which the frame rate is measured
_JPEG_HEAD = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
_BOUNDARY = b"--frame\r\n"


class LivePage(ClosedByWith):
    """Serves the page from threads of its own. `write` draws only while a browser waits, and never waits for one.

    address: PORT, which this machine alone reaches, or HOST:PORT. From elsewhere a token is needed: that of the
    environment variable TRACKLET_TOKEN, or a new one. The log says which address to open. paced: frames come at their
    times, as from a camera, until `stopped()`. Raises OutputError.
    """

    def __init__(
        self, address: str, run: RunFacts, *, paced: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        host, port = parse_address(address)
        self._run, self._paced, self._stopped = run, paced, stopped
        self._events = Events(run)
        self._recent: tuple[Event, ...] = ()  # replaced, never changed: other threads read it, as the next one
        self._now: dict[str, Any] = {}
        self._trails = Trails()
        self._names = ClassNames(run.class_names)
        self._arrivals_s: deque[float] = deque(maxlen=RATE_FRAMES)
        self._zero_s: float | None = None  # of the source's time, on our clock; for the pace
        self._screen = Screen()
        given = os.environ.get(TOKEN)
        token = given or (None if _is_local(host) else secrets.token_urlsafe(12))
        try:
            self._server = _Server(host, port, token, self._screen, self.state)
        except OSError as error:
            raise OutputError(f"--serve {address}: no page can be opened there: {error.strerror or error}") from error
        self._thread = Thread(target=self._server.serve_forever, args=(SLICE_S,), name="live page", daemon=True)
        self._thread.start()
        query = "" if token is None else f"?token=${TOKEN}" if given else f"?token={token}"
        self.url = f"http://{_reachable(host)}:{self._server.server_address[1]}/{query}"
        log.warning("live page at %s", self.url)  # a warning, so that --quiet does not hide a new token

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if frame.image is None:
            raise OutputError("the source has no pictures, so there is nothing to show on a live page")
        if self._paced:
            self._wait_until(frame.time_s)
        self._trails.update(frame.time_s, tracks)
        names = self._names.shown(tracks)
        if events := self._events.of(frame, tracks):
            self._recent = (*self._recent, *events)[-KEPT_EVENTS:]
        self._now = self._facts(frame, tracks)
        if not self._screen.wanted:
            return
        picture = annotate(
            frame.image, tracks, self._trails.of(tracks), caption=caption(frame, tracks, bool(names)), names=names
        )
        if self._run.overlay is not None:
            self._run.overlay(picture)
        self._screen.show(picture)

    def state(self) -> dict[str, Any]:
        """What the page shows beside the picture, for JSON; other threads call it."""
        feed = self._run.feed
        lost = feed is not None and feed.lost
        return {"source": self._run.name, "lost": lost, **self._now, "events": self._recent}

    def close(self) -> None:
        self._screen.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _facts(self, frame: Frame, tracks: Tracks) -> dict[str, Any]:
        self._arrivals_s.append(time.monotonic())
        past_s = self._arrivals_s[-1] - self._arrivals_s[0]
        feed = self._run.feed
        live = {} if feed is None else {"age_ms": round(1000 * feed.age_s(frame.time_s)), "dropped": feed.dropped}
        return {
            "frame": frame.index + 1,
            "time_s": round(frame.time_s, 3),
            "fps": round((len(self._arrivals_s) - 1) / past_s, 1) if past_s > 0 else None,
            **live,
            "people": [{"id": row.id, "colour": _css(identity_colour(row.id))} for row in tracks],
            "lines": [{"name": line.name, "in": line.n_in, "out": line.n_out} for line in self._run.lines],
            "zones": [
                {"name": zone.name, "inside": len(zone.inside), "entered": zone.n_entered, "left": zone.n_left}
                for zone in self._run.zones
            ],
        }

    def _wait_until(self, time_s: float) -> None:
        if self._zero_s is None:
            self._zero_s = time.monotonic() - time_s
        while (left_s := self._zero_s + time_s - time.monotonic()) > 0 and not self._stopped():
            check()
            time.sleep(min(left_s, SLICE_S))


class Screen:
    """The newest picture, from the thread that tracks to those that send it; encoded once, and only if one waits."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._newest: tuple[int, ImageArray] = (0, np.zeros((1, 1, 3), np.uint8))  # number, picture
        self._encoding = Lock()
        self._encoded = (0, b"")
        self._n_waiting = 0
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Whether a client waits for a picture."""
        return self._n_waiting > 0

    @property
    def number(self) -> int:
        """Of the newest picture; 0: none was shown yet."""
        return self._newest[0]

    def show(self, picture: ImageArray) -> None:
        """picture (H, W, 3) BGR; not to be changed afterwards."""
        with self._changed:
            self._newest = self.number + 1, picture
            self._changed.notify_all()

    def next(self, after: int) -> tuple[int, bytes] | None:
        """Wait for a picture with a number above `after`: number and JPEG of the newest one; None at the end."""
        with self._changed:
            self._n_waiting += 1
            self._changed.wait_for(lambda: self._closed or self.number > after)
            self._n_waiting -= 1
            if self._closed:
                return None
        with self._encoding:  # not `_changed`, which `show` needs
            number, picture = self._newest
            if self._encoded[0] != number:
                self._encoded = number, _jpeg(picture)
            return self._encoded

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of PORT or HOST:PORT. Raises OutputError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise OutputError(f"--serve takes PORT or HOST:PORT, as in 8000 or 0.0.0.0:8000, got {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Server(ThreadingHTTPServer):
    """token: what clients must give; None: none, for this machine alone."""

    daemon_threads = True

    def __init__(
        self, host: str, port: int, token: str | None, screen: Screen, state: Callable[[], dict[str, Any]]
    ) -> None:
        self.token, self.screen, self.state = token, screen, state
        self.page = files(__package__).joinpath("live_page.html").read_bytes()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks a name server for our name, and may wait long for it.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may leave
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENT_S

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if not self._allowed(parse_qs(parts.query).get("token", [""])[0]):
            self._answer(403, "text/plain", b"Open the whole address that track printed.\n")
        elif parts.path == "/":
            self._answer(200, "text/html; charset=utf-8", self.server.page)
        elif parts.path == "/state":
            self._answer(200, "application/json", json.dumps(self.server.state()).encode())
        elif parts.path == "/video":
            self._send_video()
        else:
            self._answer(404, "text/plain", b"There are /, /video and /state.\n")

    def _allowed(self, token: str) -> bool:
        if self.server.token is not None:
            return secrets.compare_digest(token.encode(), self.server.token.encode())
        # A site that the user visits may give its own name the address of this machine (DNS rebinding).
        with suppress(ValueError):
            return _is_local(urlsplit(f"//{self.headers.get('Host', '')}").hostname or "")
        return False

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_video(self) -> None:
        """Motion JPEG: each picture is the newest one when the client has taken the one before."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._head(200, "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.wfile.write(_BOUNDARY)  # without a line break before it: Chromium would show nothing
        number = self.server.screen.number
        while (shown := self.server.screen.next(number)) is not None:
            number, jpeg = shown
            # The next boundary at once: browsers show a picture when they have seen its end.
            self.wfile.write(_JPEG_HEAD % len(jpeg) + jpeg + b"\r\n" + _BOUNDARY)

    def _head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")  # the address has the token
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data:")

    def log_message(self, *_: object) -> None:
        """The run has messages of its own."""


def _is_local(host: str) -> bool:
    """Whether a host means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reachable(host: str) -> str:
    """A host as others write it in an address; for "all" the one that this machine has in its network."""
    if host in ("0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's; a datagram socket sends nothing here
                host = str(probe.getsockname()[0])
            except OSError:
                host = socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _jpeg(picture: ImageArray) -> bytes:
    import cv2

    scale = LONG_SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _css(colour: tuple[int, int, int]) -> str:
    blue, green, red = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
