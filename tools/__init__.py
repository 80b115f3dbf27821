"""Benchmarks, experiments, detector training and other tools of the repository; run as `python -m tools.NAME`."""
