"""Code blocks of a document's section, as a reader would copy them."""

import pathlib
import re

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: pathlib.Path, section: str) -> list[tuple[str, str]]:
    """Return the language and text of each code block under the heading `section`, in order."""
    text = document.read_text(encoding="utf-8")
    start = text.index(f"\n## {section}\n")
    end = text.find("\n## ", start + 1)
    return _BLOCK.findall(text[start : end if end >= 0 else len(text)])


def commands(block: str) -> list[list[str]]:
    """Return a shell block's commands as words, without comments."""
    lines = (line.split("#")[0].split() for line in block.splitlines())
    return [words for words in lines if words]
