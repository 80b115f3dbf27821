"""Programs around the tracker: benchmarks, demonstrations, training of the detector. Run from the repository root."""
