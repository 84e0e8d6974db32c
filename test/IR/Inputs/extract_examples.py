"""Prints the examples of .td files as modules for --split-input-file.

Examples are ```mlir blocks and `Example: ...` in backquotes; an attribute or
type alone is put on a function, so that it is parsed and verified.
"""

import re
import sys
import textwrap


def main():
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for block, inline in re.findall(
                r"```mlir\n(.*?)```|Example: `(.*?)`", text, re.S):
            example = textwrap.dedent(block or inline).strip()
            if re.match(r"[!#]pmkvq\.", example):
                example = f"func.func private @example() attributes {{e = {example}}}"
            print(example, "\n// -----", sep="\n")


main()
