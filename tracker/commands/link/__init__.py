"""`track-link`: one identity per person over the results of several videos."""
