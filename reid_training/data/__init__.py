"""Data sets as tables of samples, batch samplers, and augmentation."""
