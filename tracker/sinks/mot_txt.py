"""MOTChallenge text: frame, id, left, top, width, height, score, -1, -1, -1."""

from __future__ import annotations

import numpy as np

from tracker.boxes import mot_ltwh
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, Tracks


class MotTextSink(FrameFileSink):
    """One line per box, on disk as soon as its frame is written. Path "-" is standard output.

    Frame numbers and pixel coordinates count from 1, as in MOTChallenge: a reader subtracts 1 from frame, left and top.
    """

    def write(self, frame: Frame, tracks: Tracks) -> None:
        text = mot_lines(frame.index, tracks)
        if text:
            self._file.append(text.encode("ascii"), frame.index)


def mot_lines(frame_index: int, tracks: Tracks) -> str:
    """The lines of one frame, ids ascending, each with its line end."""
    ltwh = mot_ltwh(tracks.xyxy)
    scores = np.round(tracks.score, 4) + 0.0  # no -0.0
    lines = [
        f"{frame_index + 1},{tracks.id[row]},"
        f"{ltwh[row, 0]:.2f},{ltwh[row, 1]:.2f},{ltwh[row, 2]:.2f},{ltwh[row, 3]:.2f},"
        f"{scores[row]:.4f},-1,-1,-1\n"
        for row in np.argsort(tracks.id, kind="stable")
    ]
    return "".join(lines)
