"""Pages that are made from the code say what the code says, and pages don't point to files that are gone."""

import pathlib
import re
import subprocess
import sys
import typing

import pytest

from registry import bundle
from scripts import pin

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_configuration_page_is_what_the_schema_gives() -> None:
    command = [sys.executable, "-m", "scripts.document_configuration", "--check"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pages_links_lead_somewhere(page: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))

    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert not gone


#: Where a refusal's reason stands in the code that makes it.
REASON = re.compile(r'(?:Refusal\(\s*"[A-Z_]+",|invalid\(|reason=)\s*"(\w+)"|reason: str = "(\w+)"')


def test_every_reason_of_a_refusal_is_in_the_table_of_the_protocol() -> None:
    sources = [*(ROOT / "serving/gateway").glob("*.py"), ROOT / "serving/worker_app.py", ROOT / "protos/tensors.py"]
    sources += [ROOT / "serving/rpc/convert.py", ROOT / "serving/graph_tensors.py", ROOT / "protos/errors.py"]
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")

    reasons = {"".join(found) for path in sources for found in REASON.findall(path.read_text(encoding="utf-8"))}

    assert len(reasons) > 25
    assert not {reason for reason in reasons - {"unknown_call", "registry_decides"} if f"`{reason}`" not in page}


def test_every_reason_of_a_version_s_refusal_is_on_the_page_of_security() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    loading = re.findall(r'Error\([^)]*"(\w+)"\)', (ROOT / "serving/student/loader.py").read_text(encoding="utf-8"))

    reasons = {reason for kind in typing.get_args(bundle.Reason) for reason in typing.get_args(kind) or (kind,)}

    assert len(reasons) > 20
    assert not {reason for reason in reasons | set(loading) if f"`{reason}`" not in page}


def test_every_direct_dependency_has_a_licence_and_a_reason() -> None:
    rows = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")

    for name in pin.direct_pins((ROOT / "pyproject.toml").read_text()):
        assert re.search(rf"^\| {re.escape(name)} \| [^|]+ \| [^|]+ \|$", rows, re.MULTILINE), name


def test_the_reading_order_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

    files = re.findall(r"^\d\. `([^`]+)`", text, re.MULTILINE)

    assert len(files) == 6
    assert not [file for file in files if not (ROOT / file).is_file()]
