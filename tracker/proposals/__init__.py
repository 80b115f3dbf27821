"""Use C of the metric: where the detector failed, the tracklet's prior looks again."""
