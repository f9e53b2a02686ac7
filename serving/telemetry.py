"""Metrics of the serving side. Every metric that a gateway, a mirror or a teacher server exports is declared here.

The gateway's children (workers, mirror) write to memory-mapped files in PROMETHEUS_MULTIPROC_DIR, set by their parent before
they start; the parent merges them on one port: counters and histograms are sums over all processes, dead ones included, gauges
over those that live. Incrementing a metric is a memory write under a lock of this process, and is
allowed on the path of a request.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

REQUESTS = Counter(
    "everstill_gateway_requests_total",
    "ModelInfer calls by gRPC status code and reason; no model where the call names none that is served.",
    ["code", "reason", "model"],
)
REQUEST_SECONDS = Histogram(
    "everstill_gateway_request_seconds", "Time of an answered ModelInfer call.", ["model"], buckets=_SECONDS
)
ROWS = Counter("everstill_gateway_rows_total", "Rows answered, by the version that answered.", ["version", "model"])
FEEDBACK = Counter(
    "everstill_gateway_feedback_total",
    "Feedback calls by gRPC status code and reason; no model where the call names none that is served.",
    ["code", "reason", "model"],
)
PASS_THROUGH_ROWS = Counter(
    "everstill_gateway_pass_through_rows_total",
    "Rows that the teacher was asked for on the path of a request.",
    ["model"],
)
IN_FLIGHT = Gauge("everstill_gateway_in_flight", "ModelInfer calls being answered.", multiprocess_mode="livesum")
BATCH_ROWS = Histogram(
    "everstill_student_batch_rows",
    "Rows joined into one run of the student.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
SWAPS = Counter("everstill_student_swaps_total", "Versions swapped in, by each worker.", ["model"])
REFUSED = Counter("everstill_student_refused_total", "Versions refused before a swap, by reason.", ["reason", "model"])
SAMPLES = Counter(
    "everstill_shadow_samples_total", "Rows taken by the sampler and handed over, by arm.", ["arm", "model"]
)
DROPPED = Counter(
    "everstill_shadow_dropped_total",
    "Sampled rows that were dropped, by stratum and reason.",
    ["stratum", "reason", "model"],
)
GAPS = Counter("everstill_shadow_gaps_total", "Sequence numbers that never came out of a ring.", ["model"])
TEACHER_ROWS = Counter(
    "everstill_shadow_teacher_rows_total",
    "Rows asked of the teacher, retries counted, by arm and outcome.",
    ["arm", "outcome", "model"],
)
TEACHER_SECONDS = Histogram("everstill_shadow_teacher_seconds", "Time of a teacher call.", ["model"], buckets=_SECONDS)
MISSING = Counter(
    "everstill_shadow_missing_total",
    "Sampled rows without a teacher answer, by reason; `pace` are rows of the trial arm that were passed over on purpose.",
    ["reason", "model"],
)
BREAKER_OPEN = Gauge(
    "everstill_shadow_breaker_open",
    "1 while the teacher's circuit breaker is open.",
    ["model"],
    multiprocess_mode="livemax",
)
PUBLISHED = Counter(
    "everstill_shadow_published_total", "Records published to the stream, by topic.", ["topic", "model"]
)
SPOOL_BYTES = Gauge(
    "everstill_shadow_spool_bytes", "Bytes waiting in the spools.", ["model"], multiprocess_mode="livesum"
)
RING_BYTES = Gauge("everstill_shadow_ring_bytes", "Bytes waiting in the rings.", ["model"], multiprocess_mode="livesum")
TRIAL_ROWS = Counter(
    "everstill_shadow_trial_rows_total", "Trial rows by whether incumbent and candidate agreed.", ["agree", "model"]
)
STREAMS = Gauge("everstill_gateway_streams", "Open ModelStreamInfer calls.", multiprocess_mode="livesum")
