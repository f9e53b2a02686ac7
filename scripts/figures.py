"""Puts measured figures into a page of docs/, between two marks; what scripts.document_gates and scripts.document_recipes share.

Decides the marks and the --check; how a result is shown is each script's own.
"""

import argparse
import pathlib
import sys

END = "<!-- end of figures -->\n"


def write_figures(script: str, about: str | None, page: pathlib.Path, figures: str, arguments: list[str] | None) -> int:
    """Write a page with its figures replaced, or with --check say whether it is as it would be written; returns the exit code.

    Args:
        script: name of the module that does so, which the mark before the figures bears.
        about: what its --help says.
    """
    parser = argparse.ArgumentParser(prog=f"scripts.{script}", description=about)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is out of date")
    parsed = parser.parse_args(arguments)
    begin = f"<!-- figures: written by `python -m scripts.{script}` -->\n"
    written = page.read_text()
    before, rest = written.split(begin)
    _, after = rest.split(END)
    wanted = before + begin + figures + END + after
    if parsed.check:
        if written != wanted:
            print(f"{page.name} is out of date: run python -m scripts.{script}", file=sys.stderr)
        return int(written != wanted)
    page.write_text(wanted)
    return 0
