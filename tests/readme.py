"""The blocks of a README, and how each kind is checked.

For whoever writes the README:

- A `python` block is run, with `await` allowed, in a process of its own that reaches this machine only. It ends by
  itself: what serves for ever stands in a `bash` block.
- A `toml` block is a configuration that must load; variables in it have made-up values.
- A name after the language, as in "```toml amux.toml", keeps the block as a file for the blocks below it.
- A `bash` block, or its lines that begin with `$ `, must be what bash can parse. `json` must be JSON. `text` is free.
- A `js` block is a module for Node, which finds the OpenAI SDK; it must be served.
- `<!-- part -->` on the line before: goes on where the `python` block above ended.
- `<!-- served -->` on the line before: `python`, `js` or `bash` that is run while uvicorn serves the `app` of the
  nearest file above it, at http://127.0.0.1:8000 as the block sees it.
- `<!-- account -->` on the line before: needs a vendor's account, so it is only parsed.
"""

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

KINDS: Final = frozenset({"bash", "js", "json", "python", "text", "toml"})
MARKS: Final = frozenset({"account", "part", "served"})
_OPENING: Final = re.compile(r"(?P<indent> *)(?P<fence>`{3,})(?P<kind>\S*)[ ]*(?P<file>\S*)")
_MARK: Final = re.compile(r"\s*<!-- (\w+) -->")


class Block(Struct, frozen=True):
    """A fenced block; `line` is the number of its first line, `text` ends with a newline."""

    line: int
    kind: str
    text: str
    file: str = ""
    mark: str = ""


def blocks(readme: str) -> Iterator[Block]:
    """Find the fenced blocks.

    Raises:
        ValueError: a block that is not closed, or a kind or a mark that nobody knows how to check.
    """
    lines = enumerate(readme.splitlines(), 1)
    before = ""
    for number, line in lines:
        if opening := _OPENING.fullmatch(line):
            mark = _MARK.fullmatch(before)
            yield _block(number + 1, opening, mark[1] if mark else "", lines)
        before = line


def joined(found: list[Block], i: int) -> str:
    """Give the code of a block, after the blocks that it goes on from."""
    block = found[i]
    if block.mark != "part":
        return block.text
    above = max(j for j in range(i) if found[j].kind == block.kind)
    return f"{joined(found, above)}{block.text}"


def served(found: list[Block], i: int) -> str:
    """Name the module whose `app` is served to a block."""
    return next(block.file for block in reversed(found[:i]) if block.kind == "python" and block.file).removesuffix(
        ".py"
    )


def commands(block: Block) -> str:
    """Give the commands of a bash block: the lines after `$ ` with their continuations, otherwise all lines."""
    lines = block.text.splitlines()
    if not any(line.startswith("$ ") for line in lines):
        return block.text
    kept: list[str] = []
    goes_on = False
    for line in lines:
        if goes_on or line.startswith("$ "):
            kept.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(kept)


def _block(line: int, opening: re.Match[str], mark: str, lines: Iterator[tuple[int, str]]) -> Block:
    kind = opening["kind"]
    if kind not in KINDS:
        raise ValueError(f"line {line - 1}: a block of kind {kind!r}; known are {', '.join(sorted(KINDS))}")
    if mark and mark not in MARKS:
        raise ValueError(f"line {line - 2}: there is no mark {mark!r}; known are {', '.join(sorted(MARKS))}")
    text = ""
    for _, inner in lines:
        if inner.strip() == opening["fence"]:
            return Block(line, kind, text, opening["file"], mark)
        text += f"{inner.removeprefix(opening['indent'])}\n"
    raise ValueError(f"line {line - 1}: the block is not closed")
