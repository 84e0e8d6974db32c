"""Reads the bytes of an artifact's sections (docs/artifact.md).

pmkvq-run has checked the whole file before it hands its path on; here only what is read is.
Neighbours: text.py, which finds a tokenizer there.
"""

from __future__ import annotations

import json
import os

from pmkvq.errors import FileError


def read_sections(path, prefix: str) -> dict[str, bytes]:
    """Sections whose names begin with `prefix`, by the rest of their names. Raises FileError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise FileError(path, "header length", f"at most {size - 8} bytes", length)
            header = json.loads(file.read(length))
            sections = {}
            for name, entry in header.items():
                if not name.startswith(prefix):
                    continue
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end <= size - 8 - length:
                    raise FileError(path, f"section {name}", "offsets within the file", [begin, end])
                file.seek(8 + length + begin)
                sections[name[len(prefix):]] = file.read(end - begin)
            return sections
    except OSError as error:
        raise FileError(path, "file", problem=error.strerror) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileError(path, "header", problem=f"not an artifact's: {error}") from None
