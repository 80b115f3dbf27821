"""Settings: ranges, text, TOML there and back, and errors that name what is wrong."""

from __future__ import annotations

import dataclasses

import pytest

from tracker.config import (
    AppearanceConfig,
    AssociationConfig,
    DetectionConfig,
    LifecycleConfig,
    MotionConfig,
    OcclusionConfig,
    ProposalConfig,
    TrackerConfig,
)
from tracker.errors import ConfigError

# class, field, a value outside its range
WRONG = [
    (DetectionConfig, "strong_score", 1.5),
    (DetectionConfig, "strong_score", float("nan")),
    (DetectionConfig, "weak_score", -0.1),
    (DetectionConfig, "weak_score", 0.6),  # above strong_score
    (DetectionConfig, "nms_iou", 1.1),
    (MotionConfig, "position_std", 0.0),
    (MotionConfig, "velocity_std", -1.0),
    (MotionConfig, "aspect_measurement_std", float("nan")),
    (MotionConfig, "position_std", float("inf")),
    (MotionConfig, "reference_hz", 0.0),
    (AssociationConfig, "min_iou", -0.1),
    (AssociationConfig, "motion_weight", -0.1),
    (AssociationConfig, "motion_weight", float("nan")),
    (AssociationConfig, "least_posterior", 1.1),
    (AppearanceConfig, "gallery_size", 0),
    (AppearanceConfig, "tau_same", 2.1),
    (AppearanceConfig, "sigma_same", 0.0),  # distances are divided by it
    (ProposalConfig, "max_s", -1.0),
    (ProposalConfig, "least_log_ratio", float("nan")),
    (ProposalConfig, "verify", "colour"),
    (ProposalConfig, "verify", ""),
    (ProposalConfig, "max_overlap", 1.1),
    (ProposalConfig, "max_overlap", -0.1),
    (OcclusionConfig, "min_cover", 1.1),
    (MotionConfig, "score_noise", -0.1),
    (MotionConfig, "score_noise", float("nan")),
    (OcclusionConfig, "complete", 1.1),
    (OcclusionConfig, "complete", float("nan")),
    (OcclusionConfig, "max_s", -0.1),
    (OcclusionConfig, "max_s", float("inf")),
    (LifecycleConfig, "birth_score", 1.1),
    (LifecycleConfig, "birth_score", float("nan")),
    (LifecycleConfig, "confirm_hits", 0),
    (LifecycleConfig, "coast_s", -0.1),
    (LifecycleConfig, "lost_s", float("inf")),
    (TrackerConfig, "default_fps", 0.0),
]


@pytest.mark.parametrize(("section", "name", "value"), WRONG)
def test_values_outside_their_range_are_refused_by_name(section, name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        section(**{name: value})
    assert "\n" not in str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrackerConfig().default_fps = 10


def test_override_leaves_the_original_and_reads_text():
    default = TrackerConfig()
    changed = default.override(
        {
            "lifecycle.lost_s": "5",
            "lifecycle.confirm_hits": "2",
            "association.veto": "off",
            "appearance.tau_same": "0.3",
            "default_fps": 12,
            "proposals.verify": "appearance",
            "occlusion.enabled": "no",
        }
    )
    assert (changed.lifecycle.lost_s, changed.lifecycle.confirm_hits, changed.default_fps) == (5.0, 2, 12.0)
    assert changed.association.veto is False
    assert changed.occlusion.enabled is False
    assert changed.proposals.verify == "appearance"
    assert changed.appearance.tau_same == 0.3
    assert default == TrackerConfig()
    assert changed.override({"appearance.tau_same": "none"}).appearance.tau_same is None
    assert default.override({}) == default


@pytest.mark.parametrize(("text", "value"), [("true", True), ("ON", True), ("1", True), ("No", False), ("0", False)])
def test_booleans_as_text(text, value):
    assert TrackerConfig().override({"association.veto": text}).association.veto is value


# setting, value, part of the message
BAD_OVERRIDES = [
    ("lifecycle.lost", 1, "lifecycle.lost_s"),  # lists the names there are
    ("life.lost_s", 1, "lifecycle"),
    ("lost_s", 1, "default_fps"),
    ("lifecycle", 1, "lifecycle must be a table"),
    ("", 1, "unknown"),
    ("lifecycle.a.b", 1, "unknown"),
    ("lifecycle.lost_s", "soon", "lost_s"),
    ("lifecycle.lost_s", "none", "lost_s"),
    ("lifecycle.lost_s", [1], "lost_s"),
    pytest.param("lifecycle.lost_s", 10**400, "lost_s", id="huge"),
    ("lifecycle.confirm_hits", "2.5", "confirm_hits"),
    ("lifecycle.confirm_hits", 2.5, "confirm_hits"),
    ("lifecycle.confirm_hits", float("inf"), "confirm_hits"),
    ("lifecycle.confirm_hits", float("nan"), "confirm_hits"),
    ("association.veto", "maybe", "veto"),
    ("detection.strong_score", "7", "strong_score"),
    ("proposals.verify", "colour", "off, appearance, detector"),  # lists the allowed values
    ("occlusion.enabled", "perhaps", "occlusion.enabled"),
    ("occlusion.covered", 1, "occlusion.min_cover"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD_OVERRIDES)
def test_bad_overrides_say_what_is_wrong(name, value, said):
    with pytest.raises(ConfigError, match=said):
        TrackerConfig().override({name: value})


def test_toml_there_and_back(tmp_path):
    for config in (
        TrackerConfig(),
        TrackerConfig().override(
            {"appearance.tau_same": 0.31, "association.veto": False, "default_fps": 7.5, "lifecycle.confirm_hits": 1}
        ),
        TrackerConfig().override({"proposals.verify": "appearance", "occlusion.enabled": False}),
        TrackerConfig().override({"proposals.least_log_ratio": -1.5, "motion.position_std": 1e-7}),
    ):
        path = tmp_path / "settings.toml"
        path.write_text(config.to_toml())
        assert TrackerConfig.load(path) == config


def test_file_may_hold_some_settings(tmp_path):
    path = tmp_path / "part.toml"
    path.write_text("default_fps = 10\n[lifecycle]\nlost_s = 9\n")
    assert TrackerConfig.load(path) == TrackerConfig().override({"default_fps": 10, "lifecycle.lost_s": 9})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lost_s = ", "Invalid"),
        ("[lifecycle]\nlost = 1", "lifecycle.lost"),
        ("[lifecycle.deep]\nlost_s = 1", "lifecycle.deep"),
        ("[lifecycle]\nconfirm_hits = inf", "confirm_hits"),
        ("[lifecycle]\nlost_s = -1", "lost_s"),
        ("lifecycle = 3", "lifecycle"),
    ],
)
def test_bad_files_are_named(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        TrackerConfig.load(path)
    assert "bad.toml" in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path / "binary.toml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            TrackerConfig.load(path)
