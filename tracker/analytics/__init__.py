"""Counting over lines and zones."""
