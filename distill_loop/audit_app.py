"""`python -m distill_loop.audit_app TRIAL`, which `everstill ledger audit` becomes: a past trial is judged again from what was kept of it.

Decides whether line, rows and verdict belong together: the chain up to the line, the rows' digest, then the gate's own arithmetic. Needs the registry alone,
and no configuration of the gate: the line keeps the rule. Writes nothing, imports no torch. One thread.
"""

import argparse
import json
import pathlib
import sys
from typing import Any, NoReturn

from distill_loop.config import LoopSettings
from distill_loop.gates.rejudge import rejudge
from protos.errors import EverstillError, FormatError, UnavailableError
from registry.bundle import version_of
from registry.config import load
from registry.ledger import Ledger, Line
from registry.store import ObjectStore, open_store

PROGRAM = "everstill ledger audit"
DEFAULT_CONFIG = pathlib.Path("everstill.toml")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Judge the trial again; returns 0 where all of it is as its line says, 3 where it isn't."""
    parser = _Parser(prog=PROGRAM, description="Judge a past trial again.")
    parser.add_argument("trial", help="its id, as everstill ledger prints it, or the number of its line")
    parser.add_argument("--config", type=pathlib.Path, help="configuration file; ./everstill.toml where it exists")
    parser.add_argument("--model", help="which of the file's models")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    try:
        path = parsed.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
        settings = load(path, LoopSettings, model=parsed.model)
        url = settings.registry.url
        if "://" not in url and not pathlib.Path(url).is_dir():
            raise UnavailableError(f"there is no registry at {url}", fix="Name the configuration with --config")
        body = audit(open_store(url), settings.model.name, parsed.trial)
    except EverstillError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(body) if parsed.json else _render(body))
    return 0 if body["same"] else FormatError.exit_code


def audit(store: ObjectStore, model: str, trial: str) -> dict[str, Any]:
    """Return what a trial's kept rows say beside what its line does.

    Args:
        trial: its id, or the number of its line.

    Raises:
        LedgerError: the chain is broken, or the rows were changed or are gone. FormatError: the line keeps no rule. EverstillError: no such trial.
    """
    ledger = Ledger(store, model)
    ledger.verify()
    line = _line_of(ledger, trial)
    again = rejudge(ledger.kept_rows(line), line.evidence)
    return {
        "model": model,
        "trial_id": line.trial_id,
        "line": line.number,
        "kind": line.kind,
        "version": version_of(line.digest),
        "rows": again.num_rows,
        "rows_digest": line.rows_digest,
        "decision": again.decision.as_evidence(),
        "same": not again.differences,
        "differences": list(again.differences),
    }


def _line_of(ledger: Ledger, trial: str) -> Line:
    lines = [line for line in ledger.lines() if line.rows_digest is not None]
    found = next((line for line in lines if trial in (line.trial_id, str(line.number))), None)
    if found is None:
        known = ", ".join(line.trial_id for line in lines[-5:]) or "none yet"
        raise EverstillError(f"no trial {trial} was decided", fix=f"The newest are: {known}")
    return found


def _render(body: dict[str, Any]) -> str:
    decision = body["decision"]
    head = f"trial {body['trial_id']} of version {body['version']}, line {body['line']}: {body['kind']}"
    said = f"judged again from its {body['rows']:,} rows: {decision['verdict']}, {decision['reason']}"
    end = ["verdict and numbers are those of the line"] if body["same"] else body["differences"]
    return "\n".join([head, said, *end])


if __name__ == "__main__":
    raise SystemExit(main())
