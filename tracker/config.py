"""Settings of every stage: one frozen dataclass each, checked when made, with units in the names.

The origin of a default stands beside it, or in docs/method.md, section by section. "calibrated": the number is read
from the metadata of the re-ID model. "tuned": a run of `track-eval tune` chose or kept it, and scored it on sequences
left out (docs/tuning).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tracker import settings
from tracker.settings import Count, OneOf, Positive, Range, Settings, Share, require

Seconds = Annotated[float, Range("[0, 1e6]")]
Distance = Annotated[float, Range("[0, 2]")]  # cosine distance
VERIFY = ("off", "appearance", "detector")


@dataclass(frozen=True, slots=True)
class DetectionConfig(Settings):
    """Which detections have a high score, a low score, or are dropped. Scores are in [0, 1]."""

    strong_score: Share = 0.5  # ByteTrack's high threshold; such detections also fill galleries
    weak_score: Share = 0.1  # ByteTrack's low threshold; such detections only continue tracks
    nms_iou: Share = 0.5  # tuned, in 0.5 .. 0.7
    # The detector runs on every n-th frame. On the others tracks continue by prediction; no track is
    # created, aged or deleted there, and nothing is proposed. None: auto, which is every frame of a file, and of a live
    # source as many as time allows. See docs/detectors.md.
    every: Annotated[int, Range("[1, 100]")] | None = None

    def check_together(self) -> None:
        require(
            self.weak_score <= self.strong_score,
            f"detection.weak_score must be <= detection.strong_score ({self.strong_score}), got {self.weak_score}",
        )


@dataclass(frozen=True, slots=True)
class MotionConfig(Settings):
    """Noise of the constant-velocity Kalman filter, as shares of the person's height (Deep SORT's constants), and the
    motion of the camera."""

    position_std: Positive = 1 / 20  # of the height; measurement noise, and process noise per reference frame
    velocity_std: Positive = 1 / 160  # of the height per reference frame
    aspect_std: Positive = 1e-2  # width / height, process, per reference frame
    aspect_velocity_std: Positive = 1e-5
    aspect_measurement_std: Positive = 1e-1
    # The frame rate the constants above were made for; noise scales with real time.
    reference_hz: Annotated[float, Range("[1e-3, 1e4]")] = 30.0
    # Variance factor of a detection: score_noise * (1 - score), not below kalman.LEAST_NOISE; 0: the same for all.
    score_noise: Annotated[float, Range("[0, 1e4]")] = 3.0
    camera: bool = True  # tracks move along with the background of the images, so that the camera may move too


@dataclass(frozen=True, slots=True)
class AssociationConfig(Settings):
    """Costs and gates of the two association rounds, and the uses A and B of the metric."""

    veto: bool = True  # use A: appearance weighs every pair, and vetoes a pair against the odds; off: SORT's IoU
    reassociate: bool = True  # use B: finds lost tracks again
    min_iou: Share = 0.3  # SORT; first association, high scores
    min_iou_weak: Share = 0.5  # ByteTrack; second association, low scores
    # A and B: weight of motion in the log odds, where appearance has 1. Chosen on replicas (docs/rules.md).
    motion_weight: Annotated[float, Range("[0, 10]")] = 0.2
    # B: least probability that a detection is the lost track, and neither a newcomer nor another lost track.
    least_posterior: Share = 0.8


@dataclass(frozen=True, slots=True)
class AppearanceConfig(Settings):
    """The gallery of each track, and distance thresholds where the model does not bring calibrated ones."""

    # The stream calibrates the distances of the network (association/scene.py); off: the network's own calibration.
    scene: bool = True
    gallery_size: Count = 30  # embeddings kept for each track, the oldest leaves first
    tau_same: Distance | None = None  # cosine distance; None: calibrated
    tau_diff: Distance | None = None  # cosine distance; None: calibrated
    sigma_same: Annotated[float, Range("[1e-6, 2]")] | None = None  # root mean square; None: calibrated
    # A detection takes over the last embedding of its track where motion alone is unambiguous (appearance/reuse.py) and
    # that embedding is younger than this; 0: every detection is embedded. On eleven runs IDF1 falls by 0.2 at most;
    # with 0.2 s it falls by 2 on one of them: docs/results.md.
    refresh_s: Seconds = 0.1


@dataclass(frozen=True, slots=True)
class ProposalConfig(Settings):
    """What verifies boxes; use C: where the detector failed, the track's prediction says where to look again."""

    # "off": nothing is verified, so that use C is off. "appearance": the place looks like the track, and the background
    # beside it does not. "detector": the detector sees a person in a window around the prediction, and appearance
    # agrees that it is the track's; and the detector verifies boxes of a file when they come in. Where there is no
    # detector, "detector" means "appearance". None: "detector" where a source is tracked, "appearance" in
    # `Tracker.update`, whose boxes are of the caller. See docs/method.md, section 4.
    verify: Annotated[str, OneOf(VERIFY)] | None = None
    # Time after the last detection in which proposals may continue a track.
    max_s: Seconds = 0.5
    # By appearance: a place is a proposal from this log likelihood ratio on (association/scene.py), for most missed
    # tracks are not visible. Chosen on replicas (docs/rules.md).
    least_log_ratio: Annotated[float, Range("[-100, 100]")] = 2.0
    # By the detector: IoU with a detection, or with a better proposal; more is probably that person again.
    max_overlap: Share = 0.3

    @property
    def by_detector(self) -> bool:
        """Whether a detector that is at hand is asked."""
        return self.verify in (None, "detector")


@dataclass(frozen=True, slots=True)
class OcclusionConfig(Settings):
    """Occluded confirmed tracks: when the predicted box is output, and which detections they may claim."""

    enabled: bool = True
    min_cover: Share = 0.3  # share of the predicted box behind one nearer person
    max_s: Seconds = 0.2  # time after the last detection for which the prediction is output
    # Share of the missing width given back to a box that an occluder or the edge of the image cuts; 0: as detected.
    # With 1, boxes that once were around two people stay so: MOTA of TUD-Campus (FRCNN) falls from 63 to 58.
    complete: Share = 0.5


@dataclass(frozen=True, slots=True)
class LifecycleConfig(Settings):
    """Creation and deletion of tracks. Ages are in seconds, so that they mean the same at 10 and at 30 fps."""

    birth_score: Share = 0.6  # tuned; of a detection that creates a track; at least detection.strong_score
    confirm_hits: Count = 3  # Deep SORT's n_init: consecutive detections that confirm a track
    coast_s: Seconds = 2.0  # tuned; a track without a detection is matched by motion this long (Deep SORT: 30 frames)
    lost_s: Seconds = 3.0  # and re-associated by appearance this long (use B); >= coast_s to have an effect


@dataclass(frozen=True, slots=True)
class TrackerConfig(Settings):
    """The settings of all stages. `TrackerConfig()` is the benchmarked default."""

    detection: DetectionConfig = field(default_factory=DetectionConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    association: AssociationConfig = field(default_factory=AssociationConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    # Time step where neither a timestamp nor a source gives one.
    default_fps: Annotated[float, Range("[1e-3, 1e4]")] = 30.0

    def override(self, changes: dict[str, Any]) -> TrackerConfig:
        """A copy with `{"section.name": value}` replaced; values may be text, as from a command line.

        Raises ConfigError for a name that does not exist (it lists those that do) or a value that is not allowed.
        """
        return settings.override(self, changes)

    def to_toml(self) -> str:
        """The settings as TOML text that `load` reads back; unset (None) values are left out."""
        return settings.to_toml(self)

    @staticmethod
    def load(path: str | Path) -> TrackerConfig:
        """Settings from a TOML file with one table for each stage. Raises ConfigError with the file's name."""
        return settings.load(TrackerConfig, path)
