"""Metrics of the serving side. Every metric that a gateway, a mirror or a teacher server exports is declared here.

The gateway's children (worker, mirror) write to memory-mapped files in PROMETHEUS_MULTIPROC_DIR, set by their parent before
they start; the parent merges them on one port. Incrementing a metric is a memory write under a lock of this process, and is
allowed on the path of a request.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

REQUESTS = Counter(
    "everstill_gateway_requests_total", "ModelInfer calls by gRPC status code and reason.", ["code", "reason"]
)
REQUEST_SECONDS = Histogram(
    "everstill_gateway_request_seconds", "Time of an answered ModelInfer call.", buckets=_SECONDS
)
ROWS = Counter("everstill_gateway_rows_total", "Rows answered, by the version that answered.", ["version"])
PASS_THROUGH_ROWS = Counter(
    "everstill_gateway_pass_through_rows_total", "Rows that the teacher was asked for on the path of a request."
)
IN_FLIGHT = Gauge("everstill_gateway_in_flight", "ModelInfer calls being answered.", multiprocess_mode="livesum")
BATCH_ROWS = Histogram(
    "everstill_student_batch_rows", "Rows joined into one run of the student.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
SWAPS = Counter("everstill_student_swaps_total", "Versions swapped in.")
REFUSED = Counter("everstill_student_refused_total", "Versions refused before a swap, by reason.", ["reason"])
SAMPLES = Counter("everstill_shadow_samples_total", "Rows taken by the sampler and handed over, by arm.", ["arm"])
DROPPED = Counter(
    "everstill_shadow_dropped_total", "Sampled rows that were dropped, by stratum and reason.", ["stratum", "reason"]
)
GAPS = Counter("everstill_shadow_gaps_total", "Sequence numbers that never came out of the ring.")
TEACHER_ROWS = Counter(
    "everstill_shadow_teacher_rows_total",
    "Rows asked of the teacher, retries counted, by arm and outcome.",
    ["arm", "outcome"],
)
TEACHER_SECONDS = Histogram("everstill_shadow_teacher_seconds", "Time of a teacher call.", buckets=_SECONDS)
MISSING = Counter("everstill_shadow_missing_total", "Sampled rows without a teacher answer, by reason.", ["reason"])
BREAKER_OPEN = Gauge(
    "everstill_shadow_breaker_open", "1 while the teacher's circuit breaker is open.", multiprocess_mode="livemax"
)
PUBLISHED = Counter("everstill_shadow_published_total", "Records published to the stream, by topic.", ["topic"])
SPOOL_BYTES = Gauge("everstill_shadow_spool_bytes", "Bytes waiting in the spool.", multiprocess_mode="livesum")
RING_BYTES = Gauge("everstill_shadow_ring_bytes", "Bytes waiting in the ring.", multiprocess_mode="livesum")
TRIAL_ROWS = Counter(
    "everstill_shadow_trial_rows_total", "Trial rows by whether incumbent and candidate agreed.", ["agree"]
)
