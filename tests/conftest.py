"""What holds for every test: markers by folder, no process left behind, and no silent skip in CI.

In CI (the variable CI is set) a skipped test fails, unless it needs data that may not be redistributed ("needs
../shared/data/...") or another platform ("only on ..."): a missing service or tool is a fault of the CI machine.
"""

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.support import kafka, processes

# Two cores run these tests: no library takes more threads than it is told to.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = pathlib.Path(__file__).parent
FOLDERS = ("unit", "contract", "integration", "e2e", "chaos")
ALLOWED_SKIPS = ("needs ../shared/data", "only on ")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the name of its folder."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skip into a failure in CI, except where the reason is one that CI can't help."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS):
            report.outcome, report.longrepr = "failed", f"skipped in CI: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _marked_session() -> Iterator[None]:
    """Let every process that a test starts carry this session's mark in its environment."""
    with processes.marked():
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_process_left(_marked_session: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module that leaves a process behind, and end what it left."""
    yield
    if left := processes.end_left_behind():
        pytest.fail(f"{request.node.nodeid} left processes behind: {'; '.join(left)}")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Return the folder of the data that may not be redistributed, or skip."""
    folder = pathlib.Path(os.environ.get("EVERSTILL_DATA") or TESTS.parent / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder


@pytest.fixture(scope="session")
def kafka_bootstrap(_marked_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return host:port of one broker that all tests share: each uses topics of its own (`kafka.topic_prefix`)."""
    if running := os.environ.get(kafka.RUNNING):
        yield running
        return
    with kafka.brokers(tmp_path_factory.mktemp("kafka")) as cluster, processes.shared(cluster.pid()):
        yield cluster.bootstrap
