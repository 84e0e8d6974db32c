"""python -m pmkvq COMMAND: what Python does for pmkvq. Each command is a module with main(argv)."""

from __future__ import annotations

import importlib
import sys

# Name to module. The names of the paper's scripts are accepted where they mean the same.
_COMMANDS = {
    "calibrate": "pmkvq.calibrate",
    "allocate": "pmkvq.allocate",
    "get_sensitivity": "pmkvq.calibrate",
    "get_max_keys": "pmkvq.calibrate",
    "search_rep_scales": "pmkvq.calibrate",
    "allocate_memory": "pmkvq.allocate",
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in _COMMANDS:
        print(f"usage: python -m pmkvq {'|'.join(_COMMANDS)} ...", file=sys.stderr)
        return 2
    return importlib.import_module(_COMMANDS[sys.argv[1]]).main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
