"""What `track_video` returns: frames with their tracks, which show themselves in a notebook."""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterator
from html import escape

from tracker.sinks.drawing import annotate
from tracker.types import Frame, Tracks

SHOWN_ROWS = 20  # of the table
SHOWN_WIDTH_PX = 640
JPEG_QUALITY = 85


class TrackedVideo(Iterator[tuple[Frame, Tracks]]):
    """Iterate once: yields (frame, tracks) of a source, in order; tracking goes on as far as you iterate.

    At the end of a notebook's cell it shows who was seen so far, from when to when, and the last frame with people.
    """

    def __init__(self, name: str, frames: Generator[tuple[Frame, Tracks], None, None]) -> None:
        """name: of the source, for the table."""
        self.name = name
        self.n_frames = 0  # that came out so far
        self._frames = frames
        self._seen: dict[int, tuple[float, float, int]] = {}  # by identity: first and last time, number of boxes
        self._last: tuple[Frame, Tracks] | None = None  # with people and a picture

    def __next__(self) -> tuple[Frame, Tracks]:
        frame, tracks = next(self._frames)
        self.n_frames += 1
        for identity in tracks.id.tolist():
            first_s, _, n = self._seen.get(identity, (frame.time_s, 0.0, 0))
            self._seen[identity] = first_s, frame.time_s, n + 1
        if len(tracks) and frame.image is not None:
            self._last = frame, tracks
        return frame, tracks

    def close(self) -> None:
        """Close the source before its end."""
        self._frames.close()

    def _repr_html_(self) -> str:
        if self.n_frames == 0:
            return f"<p>{escape(self.name)}: not tracked yet; iterate over it</p>"
        rows = [
            f"<tr><td>{identity}</td><td>{first_s:.2f}</td><td>{last_s:.2f}</td><td>{n}</td></tr>"
            for identity, (first_s, last_s, n) in sorted(self._seen.items())
        ]
        more = f"<p>and {len(rows) - SHOWN_ROWS} more</p>" if len(rows) > SHOWN_ROWS else ""
        head = "<tr><th>identity</th><th>first seen (s)</th><th>last seen (s)</th><th>boxes</th></tr>"
        return (
            f"<p>{escape(self.name)}: {len(rows)} identities in {self.n_frames} frames</p>"
            f"<table>{head}{''.join(rows[:SHOWN_ROWS])}</table>{more}{self._picture()}"
        )

    def _picture(self) -> str:
        """The last frame with people as an HTML image, "" where there is none."""
        import cv2

        if self._last is None:
            return ""
        frame, tracks = self._last
        assert frame.image is not None
        picture = annotate(frame.image, tracks)
        scale = min(1.0, SHOWN_WIDTH_PX / frame.width)
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        data = base64.b64encode(jpeg.tobytes()).decode()
        return f'<img alt="frame {frame.index + 1}" src="data:image/jpeg;base64,{data}">'
