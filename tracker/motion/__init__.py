"""Where a person will be: the Kalman filter over all tracks at once."""
