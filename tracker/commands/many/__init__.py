"""`track-many`: folders of videos, tracked side by side here or on a cluster."""
