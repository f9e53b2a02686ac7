"""The command line inside the test's process, and a registry with two versions to look at."""

import contextlib
import dataclasses
import io
import pathlib
import sys

from everstill import cli
from registry.ledger import Ledger
from registry.pointers import Live, Pointers
from registry.status import write_status
from registry.store import open_store
from tests.support.students import publish_student


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def everstill(*arguments: str, cwd: pathlib.Path) -> Done:
    """Run a command inside this process."""
    output, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["everstill", *arguments]
    code: int | str | None = 0
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            cli.main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    return Done(int(code or 0), output.getvalue(), errors.getvalue())


def two_versions(folder: pathlib.Path) -> pathlib.Path:
    """A configuration and a registry with two versions, the second promoted over the first."""
    (folder / "everstill.toml").write_text('[registry]\nurl = "registry"\n')
    store = open_store(str(folder / "registry"))
    first, second = publish_student(store, winner=3), publish_student(store, winner=5)
    ledger = Ledger(store, "filetypes")
    ledger.append(
        kind="bootstrap", trial_id="bootstrap", digest=first, previous_digest=None, evidence={"pairs": 64}, actor="test"
    )
    evidence = {"wins": 20, "losses": 1, "total": 90, "log_e": 6.2, "alpha": 0.01}
    line = ledger.append(
        kind="promote", trial_id="t-1", digest=second, previous_digest=first, evidence=evidence, actor="test"
    )
    Pointers(store, "filetypes").move_live(Live(digest=second, ledger_line=line.number, epoch=1), None)
    write_status(store, "filetypes", "loop", {"process": "loop", "live": second[:12], "pairs": {"read": 7}})
    return folder
