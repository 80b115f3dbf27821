"""Methods of metric learning against their own baselines, on the same data and the same seeds."""
