"""Fill the template review.html: the page on which links are looked at and corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tracker.commands.link.inputs import CameraFile, Corrections, Video
from tracker.commands.report.page import clock, data_uri, open_template
from tracker.offline.linking import Link, Linked, Tracklets
from tracker.sinks.drawing import identity_colour


def review_page(
    videos: Sequence[Video],
    tracklets: Tracklets,
    linked: Linked,
    crops: Sequence[Mapping[int, Sequence[bytes]]],
    corrections: Corrections,
    cameras: CameraFile | None,
) -> str:
    """The HTML text, which loads nothing else. tracklets: those of all videos, in order. crops: for each
    video, JPEG files of its tracks."""
    tracks: list[dict[str, Any]] = []
    for video, pictures in zip(videos, crops, strict=True):
        for row, identity in enumerate(video.id.tolist()):
            tracks.append(
                {
                    "table": video.name,
                    "id": identity,
                    "camera": video.name if cameras is None else cameras.camera_of[video.name],
                    "when": f"{clock(video.start_s[row])} - {clock(video.end_s[row])}",
                    "start": float(tracklets.start_s[len(tracks)]),
                    "end": float(tracklets.end_s[len(tracks)]),
                    "boxes": int(video.n_boxes[row]),
                    "person": int(linked.person[len(tracks)]) + 1,
                    "crops": [data_uri(picture) for picture in pictures.get(identity, ())],
                }
            )
    doubtful = sorted((link for link in linked.links if link.doubtful), key=_doubt)
    document = {
        "tracks": tracks,
        "links": [
            {"a": link.a, "b": link.b, "odds": round(link.log_odds, 1), "linked": link.linked} for link in doubtful
        ],
        "colours": [identity_colour(number + 1)[::-1] for number in range(int(linked.person.max()) + 1)],
        "corrections": asdict(corrections),
    }
    return open_template(__package__, "review.html").render(document=document, tables=[video.name for video in videos])


def _doubt(link: Link) -> float:
    """Links that were made with the least margin come first, then possible ones, the most probable first."""
    return min(link.log_odds, link.margin) if link.linked else 1e3 - link.log_odds
