"""Counters of a running gateway, read from its /metrics page: rows that a model answered, those that the teacher was asked about, bytes in spools.

Decides nothing; a page that doesn't answer is no counters. Used by status, up and the demo; any thread.
"""

import dataclasses
import http.client
import re
import urllib.request
from collections.abc import Mapping

ROWS = "everstill_gateway_rows_total"
PASS_THROUGH_ROWS = "everstill_gateway_pass_through_rows_total"
TEACHER_ROWS = "everstill_shadow_teacher_rows_total"
SPOOL_BYTES = "everstill_shadow_spool_bytes"
TIMEOUT_S = 2.0
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
_MODEL = re.compile(r'(?:^|,)model="(?P<model>[^"]*)"')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A model's rows since its gateway started: answered, and asked of the teacher, pass-through included."""

    rows: int
    asked: int

    @property
    def teacher_share(self) -> float | None:
        """Share of the rows that the teacher was asked about; None before the first.

        Not cut at 1: retries, and rows asked about before they are answered, may pass it, and are to be seen.
        """
        return self.asked / self.rows if self.rows else None


def traffic_of(sums: Mapping[str, float]) -> Traffic:
    """Return the rows that a page's samples, as `read` gives them, tell of."""
    return Traffic(int(sums.get(ROWS, 0.0)), int(sums.get(TEACHER_ROWS, 0.0) + sums.get(PASS_THROUGH_ROWS, 0.0)))


def read(address: str, model: str) -> dict[str, float] | None:
    """Return a page's samples of one model, summed over the other labels; None where there is no page."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as page:
            text = page.read().decode()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    sums: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        about = _MODEL.search(match["labels"] or "")
        if about is None or about["model"] == model:
            sums[match["name"]] = sums.get(match["name"], 0.0) + float(match["value"])
    return sums
