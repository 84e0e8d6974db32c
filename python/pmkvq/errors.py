"""The one error that a user's file can raise, and how a tool reports it.

Neighbours: every module that reads a file; their command lines print it.
"""

from __future__ import annotations


class FileError(Exception):
    """A file is missing, damaged, or holds something unsupported.

    Args:
        path: the file.
        field: what in it is wrong (a key, a tensor, a region).
        expected, actual: values; both or neither.
        problem: said instead of expected and actual.
    """

    def __init__(self, path, field, expected=None, actual=None, problem=None):
        text = problem
        if text is None:
            text = f"expected {_shown(expected)}, got {_shown(actual)}"
        super().__init__(f"{path}: {field}: {text}")


def _shown(value) -> str:
    """One line of at most 120 characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 120 else text[:117] + "..."
