"""The heatmap: seconds of presence, over a background image without people."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.errors import OutputError
from tracker.sinks.heatmap import FOOTPRINT, LONGEST_FRAME_S, HeatmapSink
from tracker.types import Frame, Tracks

SIZE = (120, 160)  # height, width


def frame_of(index: int, time_s: float, image=None) -> Frame:
    return Frame(index, time_s, image, SIZE[1], SIZE[0])


def feet_at(*places, height=40.0) -> Tracks:
    n = len(places)
    xyxy = np.array([[x - 5, y - height, x + 5, y] for x, y in places], float).reshape(n, 4)
    return Tracks(xyxy, np.arange(1, n + 1), np.ones(n), np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.uint8))


def test_heatmap_pixel_is_the_seconds_of_presence(tmp_path):
    """Against a slow sum over all people, frames and pixels, each frame for as long as it lasted."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.04, 0.1, 0.5], 20))
    places = [rng.integers((30, 30), (130, 90), (3, 2)) for _ in times]
    sink = HeatmapSink(tmp_path / "heat.png", frame_s=0.2)
    for k, time_s in enumerate(times):
        sink.write(frame_of(k, time_s), feet_at(*(tuple(p) for p in places[k] + 0.3)))
    sink.close()
    sigma = FOOTPRINT * 40
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    expected = np.zeros(SIZE)
    for k, lasts_s in enumerate([*np.diff(times), 0.2]):
        for px, py in places[k]:
            expected += lasts_s * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(sink.seconds, expected, atol=0.02 * expected.max())


def test_heatmap_of_person_still_for_10_s_reads_10_s(tmp_path):
    sink = HeatmapSink(tmp_path / "heat.png", frame_s=0.1)
    for k in range(100):
        sink.write(frame_of(k, k / 10), feet_at((80, 100)))
    sink.close()
    assert sink.seconds.max() == pytest.approx(10.0, rel=0.02)
    assert np.unravel_index(sink.seconds.argmax(), SIZE) == (100, 80)


def test_heatmap_ignores_gaps_in_a_stream(tmp_path):
    sink = HeatmapSink(tmp_path / "heat.png", frame_s=0.1)
    sink.write(frame_of(0, 0.0), feet_at((80, 100)))
    sink.write(frame_of(1, 60.0), feet_at())
    assert sink.seconds.max() == pytest.approx(LONGEST_FRAME_S, rel=0.02)


def test_heatmap_is_hot_where_people_were(tmp_path):
    path = tmp_path / "heat.png"
    with HeatmapSink(path, frame_s=0.1) as sink:
        for k in range(40):
            image = np.full((*SIZE, 3), 100, np.uint8)
            x = 5 + 3 * k
            image[20:90, x : x + 10] = (0, 0, 250)  # a person walks by
            sink.write(frame_of(k, k / 10, image), feet_at((x, 90), (40, 110)))
    picture = cv2.imread(str(path)).astype(int)
    assert picture.shape == (*SIZE, 3)
    assert picture[110, 40].sum() > 2 * picture[60, 40].sum()
    assert abs(picture[40:80, 5:90] - 60).max() <= 3  # a darker background image without the person


def test_without_images_and_without_people(tmp_path):
    with HeatmapSink(tmp_path / "heat.jpg", frame_s=0.1) as sink:
        sink.write(frame_of(0, 0.0), feet_at())
        sink.write(frame_of(1, 0.1), feet_at((80, 500), (-9, 50)))  # feet outside the picture
    assert cv2.imread(str(tmp_path / "heat.jpg")).shape == (*SIZE, 3)


def test_heatmap_without_people_writes_no_file(tmp_path):
    HeatmapSink(tmp_path / "heat.png", frame_s=0.1).close()
    assert not (tmp_path / "heat.png").exists()


def test_outputs_that_cannot_be(tmp_path):
    with pytest.raises(OutputError, match=r"\.png, \.jpg"):
        HeatmapSink(tmp_path / "heat.txt", frame_s=0.1)
    (tmp_path / "heat.png").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        HeatmapSink(tmp_path / "heat.png", frame_s=0.1)
    with pytest.raises(OutputError, match="does not exist"):
        HeatmapSink(tmp_path / "none" / "heat.png", frame_s=0.1)
    HeatmapSink(tmp_path / "heat.png", frame_s=0.1, overwrite=True).close()
    assert (tmp_path / "heat.png").read_text() == "mine"  # nothing was seen that could replace it


def test_heatmap_of_long_video_keeps_few_stills(tmp_path):
    sink = HeatmapSink(tmp_path / "heat.png", frame_s=0.1)
    for k in range(500):
        sink.write(frame_of(k, k / 10, np.full((*SIZE, 3), k % 256, np.uint8)), feet_at())
    assert 5 <= len(sink._stills._kept) <= 9
    assert sink._stills._n_offered == 500
