"""Use C: proposals where the detector missed a track, from the prior of the tracklet."""
