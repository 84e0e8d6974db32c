"""python -m pmkvq COMMAND: what Python does for pmkvq. Each command is a function of argv that returns an exit code."""

from __future__ import annotations

import importlib
import sys

# Name to module and function. The names of the paper's scripts are accepted where they mean the same.
_COMMANDS = {
    "calibrate": ("pmkvq.calibrate", "main"),
    "allocate": ("pmkvq.allocate", "main"),
    "eval": ("pmkvq.evaluate", "main"),
    "export-modelopt": ("pmkvq.modelopt", "export_main"),
    "import-modelopt": ("pmkvq.modelopt", "import_main"),
    "get_sensitivity": ("pmkvq.calibrate", "main"),
    "get_max_keys": ("pmkvq.calibrate", "main"),
    "search_rep_scales": ("pmkvq.calibrate", "main"),
    "allocate_memory": ("pmkvq.allocate", "main"),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in _COMMANDS:
        print(f"usage: python -m pmkvq {'|'.join(_COMMANDS)} ... (--help says more)", file=sys.stderr)
        return 0 if arguments in (["--help"], ["-h"]) else 2
    module, function = _COMMANDS[arguments[0]]
    return getattr(importlib.import_module(module), function)(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
