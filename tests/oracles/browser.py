"""A headless Chromium that a test drives: open a page as a phone shows it, run JavaScript, take a picture of it.

It speaks the DevTools protocol through two pipes, so that no package for web sockets is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


class Phone:
    """A context manager; profile: an empty folder."""

    def __init__(self, profile: Path) -> None:
        import fcntl  # not on Windows

        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads from 3 and writes to 4; above them nothing is in the way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        shell = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        self._browser = subprocess.Popen(
            ["bash", "-c", shell, *words, "--remote-debugging-pipe"],
            pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._n, self._unread, self._session = 0, b"", None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Emulation.setDeviceMetricsOverride", **PHONE)

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        answer = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """PNG of what is shown."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def __enter__(self) -> Phone:
        return self

    def __exit__(self, *exc: object) -> None:
        self._browser.terminate()
        self._browser.wait(20)
        os.close(self._out)
        os.close(self._in)

    def _ask(self, method: str, **words: Any) -> dict[str, Any]:
        self._n += 1
        session = {} if self._session is None else {"sessionId": self._session}
        os.write(self._out, json.dumps({"id": self._n, "method": method, "params": words, **session}).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                read = os.read(self._in, 1 << 20)
                assert read, f"the browser ended before it answered {method}"
                self._unread += read
            message, self._unread = self._unread.split(b"\0", 1)
            said = json.loads(message)
            if said.get("id") == self._n:
                assert "error" not in said, said
                return said["result"]
