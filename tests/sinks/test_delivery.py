"""Delivery to real counterparts: an HTTP server of the standard library, and a mosquitto where one is installed."""

from __future__ import annotations

import http.server
import logging
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from tracker.sinks import delivery
from tracker.sinks.delivery import Outbox, channel_of

MOSQUITTO, SUBSCRIBER = shutil.which("mosquitto"), shutil.which("mosquitto_sub")
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(delivery, "LONGEST_RETRY_S", 0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(met, what: str) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)


class Hook:
    """A server that keeps what was posted and answers with `status`, or with the next one of `first`."""

    def __init__(self, port: int, first=(), status: int = 204, heads=()) -> None:
        hook = self
        self.got, self.heads = [], []
        statuses = iter(first)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                hook.got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                hook.heads.append(dict(self.headers))
                self.send_response(next(statuses, status))
                for name, value in heads:
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self):
                hook.got.append("GET")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def outbox(address: str, **more):
    box = Outbox(*channel_of(address), **more)
    try:
        yield box
    finally:
        box.close()


def put(box: Outbox, numbers) -> list[str]:
    for number in numbers:
        box.append(str(number).encode())
    return [str(number) for number in numbers]


def test_messages_are_posted_in_order_as_json():
    port = free_port()
    with Hook(port) as hook:
        with outbox(f"http://me:pass%20word@127.0.0.1:{port}/hook?a=1") as box:
            sent = put(box, range(20))
        assert hook.got == sent
        assert hook.heads[0]["Content-Type"] == "application/json"
        assert hook.heads[0]["Authorization"] == "Basic bWU6cGFzcyB3b3Jk"  # echo -n "me:pass word" | base64


def test_server_that_comes_late_gets_all(caplog):
    caplog.set_level(logging.INFO, "tracker")
    port = free_port()
    with outbox(f"http://127.0.0.1:{port}/") as box:
        start_s = time.monotonic()
        sent = put(box, range(50))
        assert time.monotonic() - start_s < 1.0  # nothing waited for the server
        wait_for(lambda: "takes no events (Connection refused); they wait, 10000 at most" in caplog.text, "the failure")
        time.sleep(0.3)  # several attempts, which say nothing more
        with Hook(port) as hook:
            wait_for(lambda: len(hook.got) >= 50, "deliveries")
            box.close()
    assert hook.got == sent
    assert caplog.messages.count(f"http://127.0.0.1:{port}/: 50 events delivered") >= 1
    assert sum("takes no events" in line for line in caplog.messages) == 1


def test_full_queue_loses_the_oldest_and_counts_them(caplog):
    port = free_port()
    box = Outbox(*channel_of(f"http://127.0.0.1:{port}/"), depth=5, close_s=10)
    put(box, [0])
    wait_for(lambda: "takes no events" in caplog.text, "the first attempt")  # 0 is on its way, and stays
    put(box, range(1, 21))
    with Hook(port) as hook:
        box.close()
    assert hook.got == ["0", "16", "17", "18", "19", "20"]
    said = [line.partition("/: ")[2] for line in caplog.messages]
    assert said[1:] == [
        "5 events wait already, so the oldest are lost",
        "6 of 21 events delivered; 15 dropped because too many waited",
    ]


def test_server_that_stays_away_holds_up_the_end_for_close_s_alone(caplog):
    box = Outbox(*channel_of(f"http://127.0.0.1:{free_port()}/"), close_s=0.5)
    put(box, range(3))
    start_s = time.monotonic()
    box.close()
    assert 0.4 < time.monotonic() - start_s < 3.0
    assert caplog.messages[-1].endswith("0 of 3 events delivered; 3 not confirmed before the end")


@pytest.mark.parametrize(("status", "again"), [(503, True), (429, True), (400, False), (404, False), (301, False)])
def test_failures_are_retried_and_refusals_are_not(status, again, caplog):
    port = free_port()
    heads = [("Location", f"http://127.0.0.1:{port}/elsewhere")] if status == 301 else []
    with Hook(port, first=[status], heads=heads) as hook:
        with outbox(f"http://127.0.0.1:{port}/") as box:
            put(box, [1, 2])
        assert hook.got == (["1", "1", "2"] if again else ["1", "2"])
    assert f"HTTP {status}" in caplog.text
    assert ("1 of 2 events delivered; 1 refused" in caplog.text) == (not again)


def test_slow_server_is_waited_for_while_it_delivers():
    """Each answer takes 0.2 s: all together take longer than close_s, and none does."""
    port = free_port()
    with Hook(port) as hook:
        real, hook.got = hook.got, SlowList()
        assert real == []
        with outbox(f"http://127.0.0.1:{port}/", close_s=0.6) as box:
            sent = put(box, range(6))
        assert hook.got == sent


class SlowList(list):
    def append(self, item):
        time.sleep(0.2)
        super().append(item)


def test_no_http_server_is_said(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: answer_rubbish(server), daemon=True).start()
        box = Outbox(*channel_of(f"http://127.0.0.1:{server.getsockname()[1]}/"), close_s=0.3)
        put(box, [1])
        wait_for(lambda: "is no HTTP server" in caplog.text, "the failure")
        box.close()


def answer_rubbish(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"220 mail.example SMTP\r\n")


# ------------------------------------------------------------------------------------------------------------- MQTT


@contextmanager
def broker(port: int, folder, *lines: str):
    """It keeps sessions over a restart: a subscriber that is away gets all that came meanwhile."""
    lines = lines or ("allow_anonymous true",)
    keeps = ("user root", "persistence true", f"persistence_location {folder}/")
    config = folder / "config"
    config.write_text("\n".join([f"listener {port} 127.0.0.1", *keeps, *lines, ""]))
    quiet = subprocess.DEVNULL
    with subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=quiet, stderr=quiet) as process:
        wait_for(lambda: connects(port), "the broker")
        try:
            yield
        finally:
            process.terminate()


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def subscribe(port: int) -> None:
    """Open a session whose messages `received` gets."""
    session(port, "-E")


def received(port: int, last: str) -> list[str]:
    """All messages of the session, up to `last`."""
    lines, until_s = [], time.monotonic() + LIMIT_S
    while last not in lines:
        assert time.monotonic() < until_s, lines
        lines += session(port, "-W", "1")
    return lines


def session(port: int, *words: str) -> list[str]:
    command = [SUBSCRIBER, "-p", str(port), "-i", "test", "-c", "-q", "1", "-t", "tracklet/#", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False).stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None or SUBSCRIBER is None, reason="no mosquitto is installed")
class TestMosquitto:
    @pytest.fixture(autouse=True)
    def _paho(self):
        pytest.importorskip("paho", reason="paho-mqtt is an optional dependency")

    def test_messages_reach_a_subscriber_in_order(self, tmp_path):
        port = free_port()
        with broker(port, tmp_path):
            subscribe(port)
            with outbox(f"mqtt://127.0.0.1:{port}/tracklet/events") as box:
                sent = put(box, range(100))
            assert received(port, sent[-1]) == sent

    def test_broker_that_comes_late_and_restarts_loses_none(self, tmp_path, caplog):
        """At least once: a message may come twice around the restart, and each comes."""
        caplog.set_level(logging.INFO, "tracker")
        port = free_port()
        with broker(port, tmp_path):
            subscribe(port)
        with outbox(f"mqtt://127.0.0.1:{port}/tracklet/events", close_s=30) as box:
            sent = put(box, range(10))
            wait_for(lambda: "takes no events (Connection refused)" in caplog.text, "the failure")
            with broker(port, tmp_path):
                got = received(port, sent[-1])
            start_s = time.monotonic()
            sent += put(box, range(10, 20))
            assert time.monotonic() - start_s < 1.0
            time.sleep(0.5)
            with broker(port, tmp_path):
                box.close()
                got += received(port, sent[-1])
        assert f"127.0.0.1:{port}/tracklet/events: 20 events delivered" in caplog.text
        assert list(dict.fromkeys(got)) == sent  # in order, but for repetitions

    def test_password_is_sent_and_a_wrong_one_said(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(delivery, "ANSWER_S", 2.0)
        caplog.set_level(logging.INFO, "tracker")
        port, words = free_port(), tmp_path / "passwords"
        words.touch()
        subprocess.run(["mosquitto_passwd", "-b", str(words), "me", "right"], check=True)
        with broker(port, tmp_path, "allow_anonymous false", f"password_file {words}"):
            with outbox(f"mqtt://me:right@127.0.0.1:{port}/tracklet/events") as box:
                put(box, [1])
            assert ": 1 events delivered" in caplog.text
            with outbox(f"mqtt://me:wrong@127.0.0.1:{port}/tracklet/events", close_s=5) as box:
                put(box, [1])
                wait_for(lambda: "takes no events" in caplog.text, "the failure")
        assert "mqtt://me:***@127.0.0.1" in caplog.text
        assert "the broker says: Not authorized" in caplog.text


def test_mqtt_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        delivery.OutputError, match=r'needs paho-mqtt, which is not installed: pip install "\.\[mqtt\]"'
    ):
        channel_of("mqtt://host/topic")
