"""python -m pmkvq COMMAND: what Python does for pmkvq. Each command is a module with main(argv) -> exit code."""

from __future__ import annotations

import importlib
import sys

# Name to module. The names of the paper's scripts are accepted where they mean the same.
_COMMANDS = {
    "calibrate": "pmkvq.calibrate",
    "allocate": "pmkvq.allocate",
    "eval": "pmkvq.evaluate",
    "get_sensitivity": "pmkvq.calibrate",
    "get_max_keys": "pmkvq.calibrate",
    "search_rep_scales": "pmkvq.calibrate",
    "allocate_memory": "pmkvq.allocate",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in _COMMANDS:
        print(f"usage: python -m pmkvq {'|'.join(_COMMANDS)} ... (--help says more)", file=sys.stderr)
        return 0 if arguments in (["--help"], ["-h"]) else 2
    return importlib.import_module(_COMMANDS[arguments[0]]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
