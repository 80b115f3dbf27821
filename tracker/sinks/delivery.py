"""Deliver messages to a server that may be slow or away: a webhook (HTTP POST) or a topic of an MQTT broker.

Each message is sent until the server has confirmed it, so at least once, in order, from a thread with a bounded queue.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import time
from base64 import b64encode
from collections import deque
from http.client import HTTPException
from threading import Condition, Event, Thread
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tracker import __version__
from tracker.errors import OutputError
from tracker.runtime.signals import SLICE_S, check

log = logging.getLogger(__name__)

QUEUE = 10_000  # messages that may wait: 4 MB, or 60 MB with embeddings of 512 numbers
ANSWER_S = 10.0  # the longest wait for an answer
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0  # waits between attempts double
CLOSE_S = 5.0  # at the end: the longest time without a delivery
PORTS = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
TRY_AGAIN = (408, 425, 429)  # of the 4xx: timeout, too early, too many requests


class RefusedError(Exception):
    """The server will not take this message, however often it is sent."""


class Channel(Protocol):
    """A way to a server; used by one thread."""

    def deliver(self, message: bytes) -> None:
        """Returns once the server has confirmed it. Raises OSError: try again; RefusedError: do not."""
        ...

    def close(self) -> None: ...


class Outbox:
    """Delivers messages in order from a thread; `append` never waits.

    When `depth` messages wait, the oldest one is dropped for a new one. The first failure, refusal and loss of a run
    each log one line, and `close` one that counts.
    """

    def __init__(self, name: str, channel: Channel, depth: int = QUEUE, close_s: float = CLOSE_S) -> None:
        self._name = name
        self._channel = channel
        self._depth = depth
        self._close_s = close_s
        self._changed = Condition()
        self._waiting: deque[bytes] = deque()
        self._n = self._n_delivered = self._n_refused = self._n_dropped = 0
        self._said: set[str] = set()
        self._delivered_s = 0.0
        self._closing = self._given_up = False
        self._thread = Thread(target=self._run, name=f"deliver to {name}", daemon=True)
        self._thread.start()

    def append(self, message: bytes, frame_index: int | None = None) -> None:
        """Hand over one message. frame_index is not used: a delivery does not fail the frame."""
        with self._changed:
            self._n += 1
            full = len(self._waiting) >= self._depth
            if full:
                self._waiting.popleft()
                self._n_dropped += 1
            self._waiting.append(message)
            self._changed.notify_all()
        if full:
            self._say_once("full", f"{self._depth} events wait already, so the oldest are lost")

    def close(self) -> None:
        """Wait for the messages that wait, as long as one is delivered every `close_s`; then say what was lost."""
        start_s = time.monotonic()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            while self._thread.is_alive() and time.monotonic() - max(start_s, self._delivered_s) < self._close_s:
                check()
                self._thread.join(SLICE_S)
        finally:
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
            self._channel.close()
            self._say_counts()

    def _say_counts(self) -> None:
        left = self._n - self._n_delivered - self._n_refused - self._n_dropped
        why = {
            "dropped because too many waited": self._n_dropped, "refused": self._n_refused,
            "not confirmed before the end": left,
        }  # fmt: skip
        lost = ", ".join(f"{n} {what}" for what, n in why.items() if n)
        if lost:
            log.warning("%s: %d of %d events delivered; %s", self._name, self._n_delivered, self._n, lost)
        else:
            log.info("%s: %d events delivered", self._name, self._n)

    # ------------------------------------------------------------------------------------- in the thread that delivers

    def _run(self) -> None:
        while (message := self._next()) is not None:
            self._deliver(message)

    def _next(self) -> bytes | None:
        """The oldest message that waits; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing or self._given_up)
            return self._waiting.popleft() if self._waiting and not self._given_up else None

    def _deliver(self, message: bytes) -> None:
        retry_s = FIRST_RETRY_S
        while not self._given_up:
            try:
                self._channel.deliver(message)
            except RefusedError as error:
                self._n_refused += 1
                self._say_once("refused", f"refuses events: {error}")
                return
            except OSError as error:
                self._say_once("away", f"takes no events ({error}); they wait, {self._depth} at most")
            else:
                self._n_delivered += 1
                self._delivered_s = time.monotonic()
                return
            self._pause(retry_s)
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    def _pause(self, retry_s: float) -> None:
        """Between two attempts; short at the end of the run."""
        with self._changed:
            closing = self._closing
            ended = lambda: self._given_up or self._closing != closing  # noqa: E731
            self._changed.wait_for(ended, FIRST_RETRY_S if closing else retry_s)

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s: %s", self._name, text)


class Webhook:
    """POST of one message to an address; 2xx confirms it. login: user and password of HTTP's basic authentication."""

    def __init__(self, url: str, login: tuple[str, str] | None) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": f"tracklet/{__version__}"}
        if login is not None:
            self._headers["Authorization"] = f"Basic {b64encode(':'.join(login).encode()).decode()}"
        self._opener = build_opener(_NoRedirect)

    def deliver(self, message: bytes) -> None:
        try:
            with self._opener.open(Request(self._url, message, self._headers), timeout=ANSWER_S):
                return
        except HTTPError as error:
            error.close()
            said = f"HTTP {error.code} {error.reason}"
            if 300 <= error.code < 500 and error.code not in TRY_AGAIN:
                raise RefusedError(said) from error
            raise ConnectionError(said) from error
        except URLError as error:
            raise ConnectionError(_reason(error.reason)) from error
        except (HTTPException, ValueError) as error:  # ValueError: of a name that is none
            raise ConnectionError(f"is no HTTP server: {error!r}") from error

    def close(self) -> None:
        """Each message has a connection of its own."""


class _NoRedirect(HTTPRedirectHandler):
    """urllib would follow with a GET, without the message."""

    def redirect_request(self, *_: Any) -> None:
        return None


class MqttTopic:
    """Publishes to one topic with quality of service 1: the broker confirms each message. Reconnects by itself."""

    def __init__(self, host: str, port: int, topic: str, tls: bool, login: tuple[str, str] | None) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._host, self._port, self._topic = host, port, topic
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.reconnect_delay_set(1, round(LONGEST_RETRY_S))
        if tls:
            self._client.tls_set()
        if login is not None:
            self._client.username_pw_set(*login)
        self._reached = False
        self._sent: bytes | None = None  # the message that paho has, and sends again after a lost connection
        self._confirmed = Event()  # one message is on its way at a time
        self._client.on_publish = lambda *_: self._confirmed.set()
        self._why = f"no answer for {ANSWER_S:g} s"

    def deliver(self, message: bytes) -> None:
        if not self._reached:
            try:
                self._client.connect(self._host, self._port)
            except (OSError, ValueError) as error:
                raise ConnectionError(_reason(error)) from error
            self._client.loop_start()
            self._reached = True
        if self._sent is not message:
            self._sent = message
            self._confirmed.clear()
            self._client.publish(self._topic, message, qos=1)
        if not self._confirmed.wait(ANSWER_S):
            raise TimeoutError(self._why)

    def close(self) -> None:
        connected = self._client.is_connected()
        self._client.disconnect()
        if connected:  # else paho's thread may be in the middle of a long attempt
            self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        """In the thread of paho."""
        self._why = f"the broker says: {reason}" if reason.is_failure else f"no answer for {ANSWER_S:g} s"


def _reason(error: object) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def is_address(target: str) -> bool:
    """Whether a target is the address of a server."""
    return target.lower().startswith(tuple(f"{scheme}://" for scheme in PORTS))


def channel_of(address: str) -> tuple[str, Channel]:
    """The name for messages, and the channel; nothing is connected yet. Raises OutputError for a wrong address."""
    name = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", address)
    try:
        parts = urlsplit(address)
        port = parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise OutputError(f"{name}: is no address of a server: {error}") from error
    if not parts.hostname:
        raise OutputError(f"{name}: names no host; right is {parts.scheme}://HOST/...")
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    if parts.scheme.startswith("http"):
        return name, Webhook(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl(), login)
    topic = unquote(parts.path.removeprefix("/"))
    if not topic or "+" in topic or "#" in topic + address:
        raise OutputError(f"{name}: needs a topic without + and #, as in {parts.scheme}://HOST/tracklet/events")
    if importlib.util.find_spec("paho") is None:
        raise OutputError(f'{name}: needs paho-mqtt, which is not installed: pip install ".[mqtt]"')
    return name, MqttTopic(parts.hostname, port, topic, parts.scheme == "mqtts", login)
