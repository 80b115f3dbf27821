"""Settings of every stage: one frozen dataclass each, checked when made, with units in the names.

Where a default comes from stands beside it. `methods 05` is short for the reconstruction of Thoreau & Kottege that the
README describes; "calibrated" means that the number is read from the re-ID model's own metadata; "tuned" means that
a run of `track-eval tune` chose or kept it, and scored it on videos left out: see docs/tuning.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from tracker.errors import ConfigError

LONGEST = 1_000_000  # characters of a settings file
VERIFIERS = ("auto", "appearance")


def _check(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {rule}, got {value!r}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    _check(math.isfinite(value) and low <= value <= high, name, value, f"in [{low:g}, {high:g}]")


@dataclass(frozen=True, slots=True)
class DetectionConfig:
    """Which detections are strong, weak or dropped. Scores are in [0, 1]."""

    strong_score: float = 0.5  # ByteTrack's track threshold; fills galleries
    weak_score: float = 0.1  # ByteTrack's low threshold; only keeps known tracks alive
    nms_iou: float = 0.5  # tuned; methods 05 §2.3: 0.5..0.7 on input
    # The detector looks at every n-th frame; 1: at all of them. Between them tracks live on the proposals of use C, by
    # appearance alone, and on predictions; nobody is born, missed or forgotten there. See docs/detectors.md.
    every: int = 1

    def __post_init__(self) -> None:
        _check(1 <= self.every <= 100, "detection.every", self.every, "in [1, 100]")
        _check_range("detection.strong_score", self.strong_score, 0, 1)
        _check_range("detection.weak_score", self.weak_score, 0, self.strong_score)
        _check_range("detection.nms_iou", self.nms_iou, 0, 1)


@dataclass(frozen=True, slots=True)
class MotionConfig:
    """Noise of the constant-velocity Kalman filter, as shares of the person's height (Deep SORT's constants), and the
    motion of the camera."""

    position_std: float = 1 / 20  # of the height; measurement noise, and process noise per reference frame
    velocity_std: float = 1 / 160  # of the height per reference frame
    aspect_std: float = 1e-2  # width / height, process, per reference frame
    aspect_velocity_std: float = 1e-5
    aspect_measurement_std: float = 1e-1
    reference_hz: float = 30.0  # the frame rate the constants above were made for; noise scales with real time
    score_noise: float = 3.0  # variance factor of a detection: score_noise * (1 - score); 0: the same for all
    least_noise: float = 0.1  # the smallest such factor
    proposal_noise: float = 4.0  # variance factor of a proposed box as measurement, methods 05 §2.5.8
    camera: bool = True  # tracks move along with the background of the images, so that the camera may move too

    def __post_init__(self) -> None:
        for name in ("position_std", "velocity_std", "aspect_std", "aspect_velocity_std", "aspect_measurement_std"):
            value = getattr(self, name)
            _check(0 < value < math.inf, f"motion.{name}", value, "> 0 and finite")
        _check_range("motion.reference_hz", self.reference_hz, 1e-3, 1e4)
        _check_range("motion.score_noise", self.score_noise, 0, 1e4)
        _check_range("motion.least_noise", self.least_noise, 1e-3, 1)
        _check_range("motion.proposal_noise", self.proposal_noise, 1, 1e4)


@dataclass(frozen=True, slots=True)
class AssociationConfig:
    """Costs and gates of the two association rounds, and the uses A and B of the metric."""

    appearance_weight: float = 0.75  # tuned; 1 - lambda of methods 05 §2.5.4; 0 is plain Kalman + IoU
    min_iou: float = 0.3  # SORT; strong detections
    min_iou_weak: float = 0.5  # ByteTrack's second round
    relink_chi2: float = 9.4877  # B: 95 %, as in Deep SORT
    veto: bool = True  # use A: appearance cancels a pair that would switch identities
    reassociate: bool = True  # use B: appearance finds lost tracks again
    min_gallery: int = 3  # embeddings a track needs before A, B or C trust it (methods 05 §2.5)
    veto_quantile: float = 0.25  # of the distances to the gallery; low, so that one bad entry vetoes nothing
    swap_gain: float = 0.1  # A exchanges two pairs only if the summed distance falls by this (cosine distance)
    second_best_ratio: float = 1.1  # B: the second-best candidate must be this much farther
    min_height_ratio: float = 0.7  # B: height of the detection over that of the lost track
    max_height_ratio: float = 1.4

    def __post_init__(self) -> None:
        _check_range("association.appearance_weight", self.appearance_weight, 0, 1)
        _check_range("association.min_iou", self.min_iou, 0, 1)
        _check_range("association.min_iou_weak", self.min_iou_weak, 0, 1)
        _check(self.relink_chi2 > 0, "association.relink_chi2", self.relink_chi2, "> 0")
        _check(self.min_gallery >= 1, "association.min_gallery", self.min_gallery, ">= 1")
        _check_range("association.veto_quantile", self.veto_quantile, 0, 1)
        _check_range("association.swap_gain", self.swap_gain, 0, 4)
        _check_range("association.second_best_ratio", self.second_best_ratio, 1, 1e4)
        _check_range("association.min_height_ratio", self.min_height_ratio, 0, 1)
        _check(self.max_height_ratio >= 1, "association.max_height_ratio", self.max_height_ratio, ">= 1")


@dataclass(frozen=True, slots=True)
class AppearanceConfig:
    """The gallery of each track, and distance thresholds where the model does not bring calibrated ones."""

    gallery_size: int = 30  # embeddings kept for each track, the oldest leaves first
    max_cover: float = 0.3  # a box covered or cut by more than this is occluded: not written (methods 05 §2.4)
    min_height_px: float = 24.0  # smaller crops say little about who it is
    tau_same: float | None = None  # cosine distance; None: calibrated
    tau_diff: float | None = None  # cosine distance; None: calibrated
    sigma_same: float | None = None  # spread of same-person distances; None: calibrated
    # Economy (appearance/economy.py): a detection is not embedded if motion alone says whose it is, and that track was
    # looked at not long ago. The numbers are the mildest tried: on eleven runs IDF1 falls by 0.2 at most. With 0.2 s it
    # falls by 2 on one of them, with 0.15 s and near_iou = 0.02 on another: docs/results.md.
    refresh_s: float = 0.1  # time after which a track is looked at again all the same; 0: every detection is embedded
    plain_iou: float = 0.6  # least IoU of the detection with the prediction
    near_iou: float = 0.1  # IoU with another prediction, or of the prediction with another detection, that is too near

    def __post_init__(self) -> None:
        _check(self.gallery_size >= 1, "appearance.gallery_size", self.gallery_size, ">= 1")
        _check_range("appearance.max_cover", self.max_cover, 0, 1)
        _check_range("appearance.min_height_px", self.min_height_px, 0, 1e5)
        _check_range("appearance.refresh_s", self.refresh_s, 0, 1e6)
        _check_range("appearance.plain_iou", self.plain_iou, 0, 1)
        _check_range("appearance.near_iou", self.near_iou, 1e-6, 1)
        for name in ("tau_same", "tau_diff", "sigma_same"):
            value = getattr(self, name)
            if value is not None:
                _check_range(f"appearance.{name}", value, 1e-6 if name == "sigma_same" else 0, 2)


@dataclass(frozen=True, slots=True)
class ProposalConfig:
    """Use C: where the detector failed, the tracklet's prior says where to look again."""

    enabled: bool = True
    # What confirms a proposal. "auto": the detector sees a person in a window around the prediction, and appearance
    # agrees that it is the track's; where no detector can be asked (replayed detections, `Tracker.update`), appearance
    # alone. "appearance": the place looks like the track, and the background beside it does not. See docs/method.md,
    # section 4.
    verifier: str = "auto"
    window_score: float = 0.2  # least score in a window; between 0.1 and 0.3 it hardly matters
    max_s: float = (
        0.5  # time after the last detection in which a track may live on proposals (methods 05: 10-15 frames)
    )
    max_crops_per_frame: int = 48  # real-time guarantee; tracks seen most recently come first
    grid_sigma: float = 1.0  # candidates reach this many standard deviations of the predicted centre
    # A track's first candidate must lie within this share of tau_same, or the others are not embedded. Most tracks that
    # C asks about are hidden, and one look at the predicted place tells.
    first_look: float = 0.7
    # Threshold as a share of tau_same (tau_prop <= tau_same), and cosine distance by which the person must beat the
    # background control. Chosen on PETS09-S2L1, TUD-Campus and MOT16-09: with 1 and 0.1 proposals cost more than they
    # found, for in a scene the network has never seen, 10 % of the pairs of different people lie within tau_same. With
    # 0.3 as margin they find more, but on PETS09-S2L1, and on MOT16-09 with YOLOX-nano's boxes, no more than they cost.
    accept_scale: float = 0.5
    background_margin: float = 0.45
    max_outside: float = 0.3  # share of a candidate that may lie outside the image
    # IoU with a detection, or with a surer proposal: more is probably that person, or who hides the one looked for.
    max_overlap: float = 0.3

    def __post_init__(self) -> None:
        _check(self.verifier in VERIFIERS, "proposals.verifier", self.verifier, f"one of {', '.join(VERIFIERS)}")
        _check_range("proposals.window_score", self.window_score, 0, 1)
        _check_range("proposals.max_s", self.max_s, 0, 1e4)
        _check(self.max_crops_per_frame >= 0, "proposals.max_crops_per_frame", self.max_crops_per_frame, ">= 0")
        _check_range("proposals.grid_sigma", self.grid_sigma, 0, 10)
        _check(self.first_look >= 0, "proposals.first_look", self.first_look, ">= 0")
        _check_range("proposals.accept_scale", self.accept_scale, 0, 1)
        _check_range("proposals.background_margin", self.background_margin, 0, 2)
        _check_range("proposals.max_outside", self.max_outside, 0, 1)
        _check_range("proposals.max_overlap", self.max_overlap, 0, 1)


@dataclass(frozen=True, slots=True)
class OcclusionConfig:
    """Occluded confirmed tracks: when the predicted box is output, and which detections they may claim.

    The limits come from looking at 32,000 predictions of unmatched tracks on MOT16-09, MOT17-02, -04, -09, -10,
    PETS09-S2L1 and TUD-Campus: within them, about 70 % of those behind somebody lay on a person that nothing else
    explained; outside of any of them, less than half.
    """

    enabled: bool = True
    min_cover: float = 0.3  # share of the predicted box behind one nearer person
    max_overlap: float = 0.4  # IoU with a box of this frame: more is the same person, found as another track
    max_s: float = 0.4  # time after the last detection for which a prediction stands for the person
    max_std: float = 0.35  # standard deviation of the predicted centre, as a share of the height
    max_jitter: float = 0.06  # standard deviation of the logarithm of the height
    min_hits: int = 10  # detections a track needs before its prediction is trusted
    # Share of the missing width that a box cut by somebody, or by the edge of the image, is given back; 0: as detected.
    # With 1, boxes that once were around two people stay so: MOTA of TUD-Campus (FRCNN) falls from 63 to 58.
    complete: float = 0.5

    def __post_init__(self) -> None:
        _check_range("occlusion.min_cover", self.min_cover, 0, 1)
        _check_range("occlusion.max_overlap", self.max_overlap, 0, 1)
        _check_range("occlusion.max_s", self.max_s, 0, 1e4)
        _check(self.max_std > 0, "occlusion.max_std", self.max_std, "> 0")
        _check_range("occlusion.max_jitter", self.max_jitter, 0, 10)
        _check(self.min_hits >= 1, "occlusion.min_hits", self.min_hits, ">= 1")
        _check_range("occlusion.complete", self.complete, 0, 1)


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Birth and death of tracks. Ages are in seconds: a 10 fps webcam must forget like a 30 fps film."""

    birth_score: float = 0.6  # tuned; of a detection that begins a track; never less than detection.strong_score
    confirm_hits: int = 3  # Deep SORT's n_init: consecutive detections that confirm a track
    coast_s: float = 2.0  # tuned; a track without a detection is matched by motion for so long (Deep SORT: 30 frames)
    lost_s: float = 3.0  # and remembered by appearance for so long (use B); >= coast_s to have an effect

    def __post_init__(self) -> None:
        _check_range("lifecycle.birth_score", self.birth_score, 0, 1)
        _check(self.confirm_hits >= 1, "lifecycle.confirm_hits", self.confirm_hits, ">= 1")
        _check_range("lifecycle.coast_s", self.coast_s, 0, 1e6)
        _check_range("lifecycle.lost_s", self.lost_s, 0, 1e6)


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """The settings of all stages. `TrackerConfig()` is the benchmarked default."""

    detection: DetectionConfig = field(default_factory=DetectionConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    association: AssociationConfig = field(default_factory=AssociationConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    default_fps: float = 30.0  # time step where neither a timestamp nor a source gives one

    def __post_init__(self) -> None:
        _check_range("default_fps", self.default_fps, 1e-3, 1e4)

    def override(self, settings: dict[str, Any]) -> TrackerConfig:
        """A copy with `{"section.name": value}` replaced; values may be text, as from a command line.

        Raises ConfigError for a name that does not exist (it lists those that do) or a value of the wrong type.
        """
        sections: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for dotted, value in settings.items():
            section, _, name = dotted.rpartition(".")
            if section:
                sections.setdefault(section, {})[name] = value
            else:
                top[name] = value
        changed: dict[str, Any] = _typed("", TrackerConfig, top)
        for section, values in sections.items():
            if section not in _SECTIONS:
                raise ConfigError(f"unknown settings section {section!r}; there are: {', '.join(_SECTIONS)}")
            part = getattr(self, section)
            changed[section] = dataclasses.replace(part, **_typed(section + ".", type(part), values))
        return dataclasses.replace(self, **changed)

    def to_toml(self) -> str:
        """The settings as TOML text that `load` reads back; unset (None) values are left out."""
        lines = [f"default_fps = {self.default_fps!r}"]
        for section in _SECTIONS:
            lines.append(f"\n[{section}]")
            for name, value in dataclasses.asdict(getattr(self, section)).items():
                if value is not None:
                    lines.append(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def load(path: str | Path) -> TrackerConfig:
        """Settings from a TOML file with one table for each stage. Raises ConfigError with the file's name."""
        try:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(LONGEST)  # a device has no end
            table = tomllib.loads(text)
            repr(table)  # a hexadecimal number can be longer than Python writes in a message
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read settings from {path}: {error}") from error
        except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
            raise ConfigError(
                f"cannot read settings from {path}: {type(error).__name__}, is it a settings file?"
            ) from error
        flat: dict[str, Any] = {}
        for key, value in table.items():
            if isinstance(value, dict):
                flat.update({f"{key}.{name}": inner for name, inner in value.items()})
            else:
                flat[key] = value
        try:
            return TrackerConfig().override(flat)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


_SECTIONS = tuple(f.name for f in dataclasses.fields(TrackerConfig) if f.name != "default_fps")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _typed(prefix: str, section: type, values: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(section)
    names = [name for name in hints if name not in _SECTIONS]
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise ConfigError(f"unknown setting {prefix}{name}; there are: {', '.join(prefix + n for n in names)}")
        kinds = getattr(hints[name], "__args__", (hints[name],))
        typed[name] = _parse(prefix + name, value, kinds)
    return typed


def _parse(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        if type(None) in kinds:
            return None
        raise ConfigError(f"{name} must be a {kinds[0].__name__}, got {value!r}")
    kind = kinds[0]
    text = str(value).strip().lower()
    if kind is bool:
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    try:
        return kind(value if isinstance(value, str) or kind is float or value == kind(value) else "")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} must be a {kind.__name__}, got {value!r}") from error
