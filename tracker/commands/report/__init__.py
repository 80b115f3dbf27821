"""`track-report`: one HTML page about a finished result."""
