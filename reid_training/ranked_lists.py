"""A picture of queries and their nearest images, right ones framed in green and wrong ones in red."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from reid_training.data.base import ByteArray, IntArray, Samples, read_image
from reid_training.errors import ConfigError
from reid_training.evaluate import AnswerRows, DistanceRows
from reid_training.runs import replace_file

N_NEAREST = 10
HEIGHT_PX, FRAME_PX, GAP_PX, CAPTION_PX = 128, 4, 6, 16
GREEN, RED, GREY, BLACK, WHITE = (0, 160, 0), (220, 0, 0), (130, 130, 130), (0, 0, 0), 255  # RGB


def check_picture(path: Path, n_queries: int) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--picture writes a PNG, got {path}")
    if n_queries < 1:
        raise ConfigError(f"--queries must be >= 1, got {n_queries}")


def write_ranked_lists(
    distance_rows: DistanceRows,
    answer_rows: AnswerRows,
    query: Samples,
    gallery: Samples,
    n_queries: int,
    crop: tuple[int, int],
    path: Path,
) -> int:
    """Writes a PNG: a row for each of `n_queries` queries, spread evenly over those with a right answer.

    Images that the protocol ignores are left out, as in the scores. crop: height and width of an image as the network
    sees it, for the shape of the cells. Returns how many queries are shown.
    """
    chosen = spread_queries(answer_rows, len(query), n_queries)
    width = max(1, round(HEIGHT_PX * crop[1] / crop[0]))
    rows = []
    for row in chosen.tolist():
        dist = distance_rows(row, row + 1)[0]
        right, wrong = (part[0] for part in answer_rows(row, row + 1))
        kept = np.flatnonzero(right | wrong)
        nearest = kept[np.argsort(dist[kept], kind="stable")[:N_NEAREST]]
        cells = [_cell(query.paths[row], width, GREY, f"query {row + 1}")]
        for index in nearest.tolist():
            colour = GREEN if right[index] else RED
            cells.append(_cell(gallery.paths[index], width, colour, f"{dist[index]:.2f}"))
        cells += [np.full_like(cells[0], WHITE)] * (1 + N_NEAREST - len(cells))
        rows.append(np.concatenate(cells, axis=1))
    sheet = np.concatenate([_title(rows[0].shape[1]), *rows], axis=0)
    png = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
    replace_file(path, lambda stream: stream.write(png))
    return len(chosen)


def spread_queries(answer_rows: AnswerRows, n_all: int, n: int, chunk: int = 256) -> IntArray:
    """Rows of at most `n` queries, from the first to the last that has a right answer."""
    starts = range(0, n_all, chunk)
    answered = [answer_rows(start, min(start + chunk, n_all))[0].any(axis=1) for start in starts]
    rows = np.flatnonzero(np.concatenate(answered))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(np.int64))]


def _cell(path: Path, width: int, colour: tuple[int, int, int], caption: str) -> ByteArray:
    """An image in its frame under a caption, on white; RGB."""
    inner = 2 * FRAME_PX
    cell = np.full((CAPTION_PX + HEIGHT_PX + inner + GAP_PX, width + inner + GAP_PX, 3), WHITE, np.uint8)
    cell[CAPTION_PX : CAPTION_PX + HEIGHT_PX + inner, : width + inner] = colour
    top = CAPTION_PX + FRAME_PX
    cell[top : top + HEIGHT_PX, FRAME_PX : FRAME_PX + width] = read_image(path, HEIGHT_PX, width)
    cv2.putText(cell, caption, (1, CAPTION_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.38, BLACK, 1, cv2.LINE_AA)
    return cell


def _title(width: int) -> ByteArray:
    title = np.full((CAPTION_PX + GAP_PX, width, 3), WHITE, np.uint8)
    text = f"query, and its {N_NEAREST} nearest with their cosine distance: green = right, red = wrong"
    cv2.putText(title, text, (1, CAPTION_PX - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.42, BLACK, 1, cv2.LINE_AA)
    return title
