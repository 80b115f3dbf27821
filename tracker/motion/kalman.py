"""Constant-velocity Kalman filter over all tracks at once.

State x = [cx, cy, a, h, and their velocities per second]: centre in pixels, aspect a = width / height, height in
pixels. Model and constants follow Deep SORT (Wojke et al., 2017, section 2.1): noise grows with the height of the box,
so that it does not depend on the resolution. Unlike there, time is in seconds, and process noise grows with real time,
so that a dropped frame or a slow camera is one longer step.

Every noise matrix is diagonal and F couples each coordinate only with its own velocity, so the 8 x 8 covariance is four
separate 2 x 2 blocks. Only these are kept: `cov` (T, 3, 4) holds var(position), cov(position, velocity) and
var(velocity) of the four coordinates. The closed forms below are then exact, symmetric by construction, and need no
matrix inverse; `dense` gives the textbook matrices.
"""

from __future__ import annotations

import numpy as np

from tracker.config import MotionConfig
from tracker.types import BoolArray, FloatArray

MIN_HEIGHT_PX = 1.0  # pixels; a coasting box may shrink, never to nothing
MIN_ASPECT = 0.05  # width / height, likewise
CHI2_95 = 9.4877  # 95 % of the squared Mahalanobis distances of 4 coordinates are smaller
LEAST_NOISE = 0.1  # variance factor of the surest detection
_LEAST = np.array([MIN_ASPECT, MIN_HEIGHT_PX])


def initiate(measured: FloatArray, config: MotionConfig) -> tuple[FloatArray, FloatArray]:
    """New tracks from (N, 4) measurements [cx, cy, a, h] -> mean (N, 8), cov (N, 3, 4); velocities 0 and uncertain."""
    mean = np.concatenate([measured, np.zeros_like(measured)], axis=1)
    height = measured[:, 3]
    cov = np.zeros((len(measured), 3, 4))
    cov[:, 0] = _scaled(height, 2 * config.position_std, config.aspect_std) ** 2
    per_second = config.reference_hz
    cov[:, 2] = _scaled(height, 10 * config.velocity_std * per_second, config.aspect_velocity_std * per_second) ** 2
    return mean, cov


def predict(
    mean: FloatArray, cov: FloatArray, dt_s: float, config: MotionConfig, unseen: BoolArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """State dt_s seconds later: x <- F x, P <- F P F' + Q. mean (T, 8), cov (T, 3, 4); returns new arrays.

    unseen (T,): tracks without a detection at the last step; their boxes keep their size. The last boxes before an
    occlusion are cut by the occluder, and a box that keeps shrinking at that rate soon vanishes.
    (ByteTrack, Zhang et al. 2022, stops the height of lost tracks too.)
    """
    after = np.empty_like(mean)
    position, moved, velocity = mean[:, :4], after[:, :4], after[:, 4:]
    velocity[:] = mean[:, 4:]
    if unseen is not None:
        velocity[unseen, 2:] = 0.0
    np.add(position, dt_s * velocity, out=moved)
    # A box that would shrink through zero stops shrinking (SORT does the same with its area).
    stuck = moved[:, 2:] < _LEAST
    if np.count_nonzero(stuck):
        velocity[:, 2:][stuck] = 0.0
        moved[:, 2:][stuck] = position[:, 2:][stuck]

    noise_position, noise_velocity = process_variance(position[:, 3], dt_s, config)
    out = np.empty_like(cov)
    grown = dt_s * cov[:, 2]
    np.add(cov[:, 1], grown, out=out[:, 1])
    grown += 2 * cov[:, 1]
    grown *= dt_s
    grown += cov[:, 0]
    np.add(grown, noise_position, out=out[:, 0])
    np.add(cov[:, 2], noise_velocity, out=out[:, 2])
    return after, out


def process_variance(
    height: FloatArray, dt_s: float | FloatArray, config: MotionConfig
) -> tuple[FloatArray, FloatArray]:
    """Diagonal of Q for people of this height (T,) over dt_s seconds, one number or (T,).

    Returns the variances of [cx, cy, a, h] and of their velocities, each (T, 4).
    """
    per_second = config.reference_hz
    frames = dt_s * per_second  # how many reference frames of noise
    if isinstance(frames, np.ndarray):
        frames = frames[:, None]
    position = _scaled(height, config.position_std, config.aspect_std)
    velocity = _scaled(height, config.velocity_std * per_second, config.aspect_velocity_std * per_second)
    return position**2 * frames, velocity**2 * frames


def moved_by_camera(mean: FloatArray, cov: FloatArray, motion: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same state seen by a camera that moved: x <- J x + t, P <- J P J'. mean (T, 8), cov (T, 3, 4); new arrays.

    motion (2, 3): the similarity [[p, -q, x], [q, p, y]] that takes places in the frame before to this one, in pixels.
    J turns and scales centre and velocity by its left half, scales h and its velocity by s = sqrt(p^2 + q^2), and
    leaves the aspect: a box stays upright. The noise of cx and cy is always the same, so that their covariance is a
    multiple of the unit matrix, which a turn does not change: J P J' is s^2 P, and exact in blocks. The identity
    changes no bit.
    """
    turn, shift = motion[:, :2], motion[:, 2]
    scale = np.hypot(motion[0, 0], motion[1, 0])
    per_coordinate = np.array([scale, scale, 1.0, scale])
    out = mean * np.tile(per_coordinate, 2)
    for first in (0, 4):  # position, velocity
        out[:, first] = turn[0, 0] * mean[:, first] + turn[0, 1] * mean[:, first + 1]
        out[:, first + 1] = turn[1, 0] * mean[:, first] + turn[1, 1] * mean[:, first + 1]
    out[:, :2] += shift
    return out, cov * per_coordinate**2


def innovation_variance(mean: FloatArray, cov: FloatArray, config: MotionConfig) -> FloatArray:
    """Diagonal of S = H P H' + R for every track: (T, 4), units of [cx, cy, a, h] squared."""
    return cov[:, 0] + measurement_variance(mean[:, 3], config)


def measurement_variance(height: FloatArray, config: MotionConfig) -> FloatArray:
    """Diagonal of R for people of this height (T,): (T, 4), units of [cx, cy, a, h] squared."""
    return _scaled(height, config.position_std, config.aspect_measurement_std) ** 2


def correct(
    mean: FloatArray,
    cov: FloatArray,
    measured: FloatArray,
    config: MotionConfig,
    noise_factor: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """State after measuring (T, 4) [cx, cy, a, h], one measurement for each track.

    noise_factor (T,) multiplies the measurement variance R (proposed boxes are less exact than detected ones).
    """
    variance = measurement_variance(mean[:, 3], config)
    if noise_factor is not None:
        variance = variance * noise_factor[:, None]
    total = cov[:, 0] + variance  # S, diagonal
    gain = cov[:, :2] / total[:, None]  # (T, 2, 4) of position and velocity
    residual = measured - mean[:, :4]
    out = np.empty_like(cov)
    # P (1 - K) written as P R / S: never negative, whatever the rounding.
    np.divide(cov[:, :2] * variance[:, None], total[:, None], out=out[:, :2])
    np.subtract(cov[:, 2], gain[:, 1] * cov[:, 1], out=out[:, 2])
    gain *= residual[:, None]
    return mean + gain.reshape(-1, 8), out


def score_noise(scores: FloatArray, config: MotionConfig) -> FloatArray:
    """(N,) factor of the measurement variance of detections with these scores (N,) in [0, 1].

    After the noise scale adaptive filter of GIAOTracker (Du et al. 2021, https://arxiv.org/abs/2202.11983), where it is
    1 - score; here times `motion.score_noise` and never below LEAST_NOISE.
    """
    if config.score_noise == 0:
        return np.ones_like(scores)
    return np.maximum(config.score_noise * (1.0 - scores), LEAST_NOISE)


def dense(cov: FloatArray) -> FloatArray:
    """The full covariance matrices: (T, 3, 4) -> (T, 8, 8)."""
    out = np.zeros((len(cov), 8, 8))
    k = np.arange(4)
    out[:, k, k] = cov[:, 0]
    out[:, k, k + 4] = cov[:, 1]
    out[:, k + 4, k] = cov[:, 1]
    out[:, k + 4, k + 4] = cov[:, 2]
    return out


def _scaled(height: FloatArray, share: float, aspect: float) -> FloatArray:
    """Standard deviations (T, 4) of [cx, cy, a, h]: a share of the height, a constant for the aspect."""
    std = np.empty((len(height), 4))
    std[:] = (share * height)[:, None]
    std[:, 2] = aspect
    return std
