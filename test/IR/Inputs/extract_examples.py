"""Prints the examples of .td files as modules for --split-input-file.

Examples are ```mlir blocks and `Example: ...` in backquotes; an attribute or
type alone is put on a function, so that it is parsed and verified.  An op whose
definition holds no example that uses it is an error.
"""

import re
import sys
import textwrap


def main():
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for mnemonic, body in re.findall(
                r'def PMKVQ_\w+ : PMKVQ_Op<"(\w+)"(.*?)\n}\n', text, re.S):
            blocks = re.findall(r"```mlir\n(.*?)```", body, re.S)
            if not any(f"pmkvq.{mnemonic} " in block for block in blocks):
                sys.exit(f"{path}: pmkvq.{mnemonic} has no example")
        for block, inline in re.findall(
                r"```mlir\n(.*?)```|Example: `(.*?)`", text, re.S):
            example = textwrap.dedent(block or inline).strip()
            if re.match(r"[!#]pmkvq\.", example):
                example = f"func.func private @example() attributes {{e = {example}}}"
            print(example, "\n// -----", sep="\n")


main()
