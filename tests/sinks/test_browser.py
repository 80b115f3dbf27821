"""An annotated video plays in a browser: headless Chromium plays it to its end."""

from __future__ import annotations

import http.server
import subprocess
import threading
from functools import partial
from urllib.parse import unquote

import numpy as np
import pytest

from tests.oracles.browser import BROWSER
from tests.synthetic.tracks import tracks_of
from tracker.sinks.annotated_video import AnnotatedVideoSink
from tracker.types import Frame

FRONT, BACK = 40, 200  # grey of the first second, and of the rest
PAGE = """<video id="video" src="video.mp4" muted></video><script>
const say = (text) => fetch("/said?" + encodeURIComponent(text));
video.onerror = () => say("error " + video.error.message);
video.onended = () => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  pen.drawImage(video, 0, 0);
  say([video.duration, video.videoWidth, video.videoHeight, ...pen.getImageData(80, 60, 1, 1).data].join(" "));
};
video.play().catch((error) => say("error " + error));
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and what the page says."""

    def __init__(self, *args, said: list[str], heard: threading.Event, **kwargs) -> None:
        self.said, self.heard = said, heard
        super().__init__(*args, **kwargs)

    def do_GET(self):
        if not self.path.startswith("/said?"):
            return super().do_GET()
        self.said.append(unquote(self.path.removeprefix("/said?")))
        self.heard.set()
        return self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_video_plays_in_a_browser(tmp_path):
    """A variable rate: ten frames in the first second, two in the next."""
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    times = [*np.arange(10) / 10, 1.0, 1.5]
    with AnnotatedVideoSink(tmp_path / "video.mp4", 10, (160, 120)) as sink:
        for index, time_s in enumerate(times):
            image = np.full((120, 160, 3), FRONT if time_s < 1 else BACK, np.uint8)
            sink.write(Frame(index, time_s, image, 160, 120), tracks_of([], []))
    (tmp_path / "index.html").write_text(PAGE)
    said, heard = [], threading.Event()
    handler = partial(Handler, directory=str(tmp_path), said=said, heard=heard)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        words += ["--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(words, stdout=quiet, stderr=quiet) as browser:
            heard.wait(60)
            browser.terminate()
        server.shutdown()
    length_s, width, height, *colour = map(float, said[0].split())
    assert (width, height) == (160, 120)
    assert length_s == pytest.approx(2.0, abs=0.01)
    assert np.abs(np.array(colour[:3]) - BACK).max() <= 4  # as it was drawn
