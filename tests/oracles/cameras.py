"""Camera servers on loopback: HTTP (Motion JPEG) and RTSP (RTP/JPEG, RFC 2435) that can drop connections and resume."""

from __future__ import annotations

import http.server
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np

Scene = Callable[[float], np.ndarray]  # seconds -> picture (H, W, 3) BGR

PERSON = (40, 100)  # width, height of the person below


def walker(time_s: float, width: int = 320, height: int = 240, speed: float = 50.0) -> np.ndarray:
    """A white person on black who walks to the right and starts again at the left edge."""
    picture = np.zeros((height, width, 3), np.uint8)
    left = round(20 + speed * time_s) % (width - PERSON[0])
    cv2.rectangle(picture, (left, 70), (left + PERSON[0] - 1, 70 + PERSON[1] - 1), (255, 255, 255), cv2.FILLED)
    return picture


class _Camera:
    """Base of both servers: clock, on/off switch and open connections. A context manager."""

    def __init__(self, scene: Scene, fps: float, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.scene, self.period_s = scene, 1 / fps
        self.up = True
        self.n_connections = 0
        self.n_sent = 0
        self._start_s = time.monotonic()
        self._sockets: set[socket.socket] = set()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler, bind_and_activate=True)
        self._server.daemon_threads = True
        self._server.camera = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_down()
        self._server.shutdown()
        self._server.server_close()

    def go_down(self) -> None:
        """Drop every connection and accept none."""
        self.up = False
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        self.up = True

    def accept(self, connection: socket.socket) -> bool:
        if not self.up:
            return False
        self.n_connections += 1
        self._sockets.add(connection)
        return True

    def forget(self, connection: socket.socket) -> None:
        self._sockets.discard(connection)

    def pictures(self):
        """JPEG files at the camera's frame rate while it is up, each with its time."""
        while self.up:
            time_s = time.monotonic() - self._start_s
            yield time_s, cv2.imencode(".jpg", self.scene(time_s), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            self.n_sent += 1
            time.sleep(self.period_s)


class MjpegCamera(_Camera):
    """http://127.0.0.1:PORT/video: multipart/x-mixed-replace, as network cameras send it."""

    def __init__(self, scene: Scene = walker, fps: float = 20.0) -> None:
        super().__init__(scene, fps, _Mjpeg)
        self.address = f"http://127.0.0.1:{self.port}/video"


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        camera: MjpegCamera = self.server.camera  # type: ignore[attr-defined]
        if not camera.accept(self.connection):
            return
        try:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _, jpeg in camera.pictures():
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:
            pass
        finally:
            camera.forget(self.connection)

    def log_message(self, *args: object) -> None:
        pass


class RtspCamera(_Camera):
    """rtsp://127.0.0.1:PORT/cam: RTP over the same TCP connection, JPEG by RFC 2435."""

    def __init__(self, scene: Scene = walker, fps: float = 20.0) -> None:
        super().__init__(scene, fps, _Rtsp)
        self.address = f"rtsp://127.0.0.1:{self.port}/cam"


class _Rtsp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        camera: RtspCamera = self.server.camera  # type: ignore[attr-defined]
        if not camera.accept(self.connection):
            return
        try:
            while (request := self._request()) is not None:
                self._answer(*request)
                if request[0] == "PLAY":
                    self._play(camera)
                    return
        except OSError:
            pass
        finally:
            camera.forget(self.connection)

    def _request(self) -> tuple[str, dict[str, str]] | None:
        lines = []
        while (line := self.rfile.readline().decode("latin-1").strip()) or not lines:
            if not line:
                return None
            lines.append(line)
        heads = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        return lines[0].split()[0], {name.lower(): value for name, value in heads.items()}

    def _answer(self, method: str, heads: dict[str, str]) -> None:
        status, extra, body = "200 OK", {}, ""
        if method == "OPTIONS":
            extra = {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"}
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track0\r\n"
            extra = {"Content-Type": "application/sdp"}
        elif method == "SETUP" and "TCP" in heads.get("transport", ""):
            extra = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1", "Session": "1"}
        elif method == "SETUP":
            status = "461 Unsupported Transport"
        elif method == "PLAY":
            extra = {"Session": "1"}
        extra |= {"CSeq": heads.get("cseq", "0"), "Content-Length": str(len(body))}
        text = f"RTSP/1.0 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in extra.items())
        self.wfile.write(f"{text}\r\n{body}".encode())

    def _play(self, camera: RtspCamera) -> None:
        sequence = 0
        for time_s, jpeg in camera.pictures():
            for packet in rtp_packets(jpeg, int(time_s * 90000) & 0xFFFFFFFF, sequence):
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence = (sequence + 1) & 0xFFFF


def rtp_packets(jpeg: bytes, stamp: int, sequence: int, room: int = 1400) -> list[bytes]:
    """A baseline JPEG with the standard Huffman tables as RTP packets of payload type 26 (RFC 2435)."""
    tables, width, height, kind, at = b"", 0, 0, 1, 2
    while jpeg[at + 1] != 0xDA:  # start of scan
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        body = jpeg[at + 4 : at + 2 + length]
        if marker == 0xDB:
            while body:
                tables, body = tables + body[1:65], body[65:]
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", body[1:5])
            kind = 0 if body[7] == 0x21 else 1  # luma sampled 2x1 or 2x2
        at += 2 + length
    at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    scan = jpeg[at:-2]
    packets = []
    for offset in range(0, len(scan), room):
        piece = scan[offset : offset + room]
        last = offset + len(piece) == len(scan)
        head = struct.pack(">BBHII", 0x80, 26 | (0x80 if last else 0), (sequence + len(packets)) & 0xFFFF, stamp, 1)
        head += struct.pack(">IBBBB", offset, kind, 255, width // 8, height // 8)
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        packets.append(head + piece)
    return packets
