"""Demo (`make demo`): obtain the sample video, run `track` on it, print what was written.

The video is OpenCV's vtest.avi (795 frames, people on a street corner), checked by SHA-256. It is taken from, in this
order: the path you give, demo/ (fetched before), a data folder beside the checkout, OpenCV's GitHub repository,
Debian's package opencv-doc. If none of them has it, a generated scene is used instead.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
URL = "https://raw.githubusercontent.com/opencv/opencv/4.x/samples/data/vtest.avi"
BESIDE = ROOT.parent / "shared" / "data" / "videos" / "vtest.avi"
MAX_BYTES = 64 << 20  # the video has 8 MB; nothing larger is read
NET_TIMEOUT_S = 20
PACKAGE_TIMEOUT_S = 60


class NotThereError(Exception):
    """A place does not have the video; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Track the sample video.")
    parser.add_argument("--sample", default=os.environ.get("TRACKLET_SAMPLE"), help="your own copy of the video")
    parser.add_argument("--folder", type=Path, default=ROOT / "demo", help="where the results go (default: demo/)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    try:
        video = obtain(args.folder, args.sample)
    except (
        NotThereError
    ) as error:  # only a path given by the user is an error; after every other place the next one is tried
        print(f"demo: {error}", file=sys.stderr)
        return 2
    out, annotated = video.with_suffix(".txt"), video.with_name(f"{video.stem}_tracked.mp4")
    command = ["track", str(video), "--out", str(out), "--video", str(annotated), "--overwrite"]
    print("running:", " ".join(command), flush=True)
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        print("demo: the command `track` is not installed; `make demo` does that", file=sys.stderr)
        return 2
    if status == 0:
        print(summary(out, annotated))
    return status


def obtain(folder: Path, sample: str | None) -> Path:
    """The video in `folder`; prints where it came from. Raises NotThereError if the given `sample` is unusable."""
    target = folder / "vtest.avi"
    if sample:
        _keep(_read(Path(sample)), target, f"your copy {sample}")
        return target
    places: list[tuple[str, Callable[[], bytes]]] = [
        ("the copy already in " + str(folder), lambda: _read(target)),
        ("the data folder beside the checkout", lambda: _read(BESIDE)),
        (f"OpenCV's repository, {URL}", download),
        ("Debian's package opencv-doc", from_debian),
    ]
    for name, read in places:
        try:
            _keep(read(), target, name)
        except NotThereError as error:
            print(f"sample video: not from {name}: {error}", flush=True)
        else:
            return target
    return generate(folder)


def _keep(data: bytes, target: Path, name: str) -> None:
    """Write the video if it is the right one."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise NotThereError(f"{name} is another file: SHA-256 {digest}, expected {SHA256}")
    if not target.is_file() or target.read_bytes() != data:
        part = target.with_suffix(".part")  # an interrupted download never has the video's name
        part.write_bytes(data)
        part.replace(target)
    print(f"sample video: from {name}; SHA-256 is right", flush=True)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NotThereError(f"{path} is too large to be the sample")
        return path.read_bytes()
    except OSError as error:
        raise NotThereError(f"{path}: {error.strerror}") from error


def download() -> bytes:
    """From OpenCV's repository over https."""
    try:
        with urllib.request.urlopen(URL, timeout=NET_TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NotThereError(str(error)) from error
    if len(data) > MAX_BYTES:
        raise NotThereError("the answer is too large to be the sample")
    return data


def from_debian() -> bytes:
    """Extract it from the package file, without root and without installing it."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotThereError("this machine has no apt-get and dpkg-deb")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "opencv-doc"],
                cwd=folder, check=True, capture_output=True, timeout=PACKAGE_TIMEOUT_S,
            )  # fmt: skip
            package = next(Path(folder).glob("opencv-doc*.deb"))
            unpacked = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", str(package)],
                check=True, capture_output=True, timeout=PACKAGE_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise NotThereError(f"no answer within {PACKAGE_TIMEOUT_S} s") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            raise NotThereError(lines[-1] if lines else f"{error.cmd[0]} failed") from error
        except (OSError, StopIteration) as error:
            raise NotThereError("the package could not be fetched") from error
    return member_of_tar(io.BytesIO(unpacked.stdout))


def member_of_tar(archive: io.BytesIO) -> bytes:
    """The bytes of vtest.avi (or .gz) in a tar file. Read in memory: no name in the archive ever becomes a path."""
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if not member.isfile() or name not in ("vtest.avi", "vtest.avi.gz") or member.size > MAX_BYTES:
                    continue
                file = tar.extractfile(member)
                if file is None:
                    continue
                if name.endswith(".gz"):
                    with gzip.open(file) as inner:
                        return inner.read(MAX_BYTES)
                return file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotThereError(f"the archive is corrupt: {error}") from error
    raise NotThereError("the package has no vtest.avi")


def generate(folder: Path) -> Path:
    """A generated scene in place of the video."""
    from tests.synthetic.mot import make_scene, write_sequence

    video = folder / "generated.avi"
    write_sequence(make_scene(0, n_frames=200), folder / "generated", images=False, video=video)
    print(f"sample video: not available; a generated scene is used instead: {video}", flush=True)
    return video


def summary(out: Path, annotated: Path) -> str:
    """Files and counts of the run, in a few lines."""
    rows = [line.split(",") for line in out.read_text().splitlines()]
    people, frames = {row[1] for row in rows}, {row[0] for row in rows}
    return (
        f"\nmade:\n  {out}: {len(rows)} boxes of {len(people)} identities in {len(frames)} frames (MOT text)\n"
        f"  {annotated}: annotated video, {annotated.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
