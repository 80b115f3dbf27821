"""Generated scenes with known ground truth."""
