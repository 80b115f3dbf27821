"""Replicas of a sequence: the same video with small seeded changes that mean nothing, to see how far scores scatter.

A single run cannot tell two trackers apart that differ by less than this scatter: one box that moves by a pixel can
exchange two identities for the rest of the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from tracker.detector.base import Detector, DetectorBase, with_defaults
from tracker.eval.mot_files import GroundTruth, MotFileError
from tracker.sources.base import FrameSource
from tracker.types import Detections, FloatArray, Frame, ImageArray, Tracks

JITTER = 0.01  # standard deviation of each edge of a detection, as a share of the height of the box
DROPPED = 0.02  # share of the detections that are left out
LATEST_START = 15  # frames: a replica starts at one of so many
QUALITY = (60, 90)  # of the JPEG files that the images go through


@dataclass(frozen=True, slots=True)
class Replica:
    """The changes of one replica. Boxes move and disappear in each frame by random numbers of `seed` and the frame."""

    seed: int
    first_index: int  # of the frame that it starts with
    mirrored: bool  # left and right exchanged
    quality: int  # of the JPEG file that each image goes through

    @staticmethod
    def of(seed: int) -> Replica:
        """The changes that `seed`, from 0, stands for; odd ones are mirrored."""
        rng = np.random.default_rng([seed])
        return Replica(seed, int(rng.integers(LATEST_START)), seed % 2 == 1, int(rng.integers(*QUALITY, endpoint=True)))

    def image(self, image: ImageArray) -> ImageArray:
        """The image of the replica: (H, W, 3) uint8 BGR."""
        if self.mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)

    def detections(self, detections: Detections, index: int) -> Detections:
        """Detections of the frame `index` after some are dropped and the edges of the others moved.

        No edge moves by more than a third of the box, so that edges of a narrow box do not pass each other.
        """
        rng = np.random.default_rng([self.seed, index])
        kept = rng.random(len(detections)) >= DROPPED
        size = np.tile(detections.boxes[:, 2:] - detections.boxes[:, :2], 2)
        step = rng.normal(0.0, JITTER, size.shape) * size[:, 3:]
        return replace(detections, boxes=detections.boxes + np.clip(step, -size / 3, size / 3)).take(kept)

    def truth(self, truth: GroundTruth) -> GroundTruth:
        """Ground truth of the frames that the replica has; `first_index` counts from 0, MOT files from 1.

        Raises MotFileError if no box that counts is left.
        """
        rows = truth.table.frame > self.first_index
        if not truth.counts[rows].any():
            raise MotFileError(
                f"no box that counts after frame {self.first_index}, where replica {self.seed} starts; replicas start "
                f"up to {LATEST_START - 1} frames late"
            )
        return GroundTruth(truth.table.take(rows), truth.counts[rows], truth.ignored[rows])

    def mirror(self, boxes: FloatArray, width: int) -> FloatArray:
        """(N, 4) boxes of the video in the replica, or the other way round."""
        if not self.mirrored:
            return boxes
        mirrored = boxes.copy()
        mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
        return mirrored

    def results(self, tracks: Tracks, width: int) -> Tracks:
        """Tracks of the replica in coordinates of the video."""
        return replace(tracks, xyxy=self.mirror(tracks.xyxy, width))


class ReplicaSource(FrameSource):
    """The frames of a source as a replica has them. Frames keep their index and time."""

    def __init__(self, source: FrameSource, replica: Replica) -> None:
        self.name, self.width, self.height = source.name, source.width, source.height
        self.fps, self.n_frames, self.has_images = source.fps, source.n_frames, source.has_images
        self._source, self._replica = source, replica

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if frame.index >= self._replica.first_index:
                image = None if frame.image is None else self._replica.image(frame.image)
                yield replace(frame, image=image)

    def close(self) -> None:
        self._source.close()


class ReplicaDetector(DetectorBase):
    """A detector whose boxes are those of a replica.

    of_video: its boxes are of the video (a detection file, or computed before), not found in the replica's images.
    """

    def __init__(self, detector: Detector | DetectorBase, replica: Replica, of_video: bool) -> None:
        complete = with_defaults(detector)
        self.name, self.second_look, self.n_at_once = complete.name, complete.second_look, complete.n_at_once
        self.class_names, self.last_frame = complete.class_names, complete.last_frame
        self._detector, self._replica, self._of_video = complete, replica, of_video

    def detect(self, frame: Frame) -> Detections:
        found = self._detector.detect(frame)
        if self._of_video:
            found = replace(found, boxes=self._replica.mirror(found.boxes, frame.width))
        return self._replica.detections(found, frame.index)
