"""Reject path traversal in file names read from untrusted lists and archives."""

from __future__ import annotations


def leaves_folder(name: str) -> bool:
    """Whether a name leads out of the folder that it is relative to, on any system. Symbolic links are not followed.

    >>> [leaves_folder(name) for name in ("img1", "a/../b", "../b", "a/../../b", "/etc/passwd", "C:\\\\b", "..\\\\b")]
    [False, False, True, True, True, True, True]
    """
    parts = name.replace("\\", "/").split("/")
    if (parts[0] == "" and len(parts) > 1) or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return True
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False
