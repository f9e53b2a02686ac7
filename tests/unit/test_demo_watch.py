"""What the demo sees of the service: status objects, ledger, and the counters of a metrics page."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from everstill import metrics
from everstill.demo.watch import Watch
from registry.ledger import Ledger
from registry.status import write_status
from registry.store import ObjectStore, open_store

PAGE = """# HELP everstill_shadow_teacher_rows_total Rows asked.
# TYPE everstill_shadow_teacher_rows_total counter
everstill_shadow_teacher_rows_total{arm="uniform",outcome="ok"} 40.0
everstill_shadow_teacher_rows_total{arm="trial",outcome="ok"} 2.0
everstill_gateway_pass_through_rows_total 96.0
everstill_shadow_dropped_total{reason="ring_full",stratum="pairs"} 3.0
everstill_shadow_ring_bytes 100.0
everstill_shadow_spool_bytes 20.0
"""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def metrics_address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory://")


def test_teacher_calls_are_all_arms_and_the_pass_through(store: ObjectStore, metrics_address: str) -> None:
    write_status(store, "m", "gateway-1", {"metrics_address": metrics_address, "live": "v1"})
    write_status(store, "m", "loop", {"steps": 7})

    view = Watch(store, "m", "gateway-1").look()

    assert (view.teacher_calls, view.dropped, view.waiting_bytes) == (138, 3, 120)
    assert (view.gateway["live"], view.loop["steps"]) == ("v1", 7)


def test_counters_of_a_gateway_that_is_gone_stay_as_they_were(store: ObjectStore, metrics_address: str) -> None:
    write_status(store, "m", "gateway-1", {"metrics_address": metrics_address})
    watch = Watch(store, "m", "gateway-1")
    watch.look()

    write_status(store, "m", "gateway-1", {"metrics_address": "127.0.0.1:1"})

    assert watch.look().teacher_calls == 138


def test_a_registry_that_cannot_be_read_leaves_the_view_as_it_was(store: ObjectStore) -> None:
    Ledger(store, "m").append(
        kind="bootstrap", trial_id="bootstrap", digest="a" * 64, previous_digest=None, evidence={}, actor="loop"
    )
    watch = Watch(store, "m", "gateway-1")
    assert len(watch.look().lines) == 1

    store.put("models/m/ledger/00000001.json", b"torn")

    assert len(watch.look().lines) == 1


def test_a_page_that_does_not_answer_has_no_samples() -> None:
    assert metrics.read("127.0.0.1:1", "m") is None
