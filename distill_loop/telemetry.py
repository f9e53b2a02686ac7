"""Metrics of the loop. Every metric that it exports is declared here."""

from prometheus_client import Counter, Gauge

PAIRS = Counter("everstill_loop_pairs_total", "Pairs read from the stream, by what became of them.", ["fate"])
DEAD = Counter(
    "everstill_loop_dead_total", "Records that went to the dead topic, by topic and reason.", ["kind", "reason"]
)
STEPS = Counter("everstill_loop_steps_total", "Optimizer steps taken.")
SPOILT_STEPS = Gauge(
    "everstill_loop_spoilt_steps",
    "Steps since the model's beginning whose gradient was not finite, and that changed nothing.",
)
VERDICTS = Counter("everstill_loop_verdicts_total", "Trials ended, by verdict.", ["verdict"])
PRECHECK_REJECTED = Counter("everstill_loop_precheck_rejected_total", "Candidates that never went on trial.")
UNPROMISING = Counter(
    "everstill_loop_unpromising_cuts_total",
    "Cuts that didn't go on trial: on the newest pairs the student was clearly behind the live version.",
)
AGREEMENT = Gauge(
    "everstill_loop_agreement_ratio", "Progressive agreement of the served student with the teacher.", ["bound"]
)
LABELS = Counter("everstill_loop_labels_total", "Labels read from the stream, by what became of them.", ["outcome"])
LABELS_WAITING = Gauge(
    "everstill_loop_labels_waiting", "Labels whose row has not come, and may never: most rows are not sampled."
)
LABEL_ACCURACY = Gauge(
    "everstill_loop_label_accuracy_ratio",
    "Share of labelled uniform-arm rows on which student or teacher said what the label says, weighted by one over the sampling probability.",
    ["of", "bound"],
)
TRIAL_LOG_EVIDENCE = Gauge(
    "everstill_loop_trial_log_evidence", "Natural log of the open trial's evidence; 0 without one."
)
LAG = Gauge("everstill_loop_lag_messages", "Stream messages that wait to be read.")
OLDEST_WAITING = Gauge(
    "everstill_loop_oldest_waiting_s",
    "Time that the oldest unread message of pairs has waited on the stream, in seconds; 0 where none waits.",
)
STALENESS = Gauge(
    "everstill_loop_staleness_s",
    "Age of the newest pair that the live version knows, in seconds; 0 before the first version.",
)
BREAKER_OPEN = Gauge(
    "everstill_loop_breaker_open_s",
    "Time in which gateways' breakers to the teacher were open since the model's beginning, in seconds, of all gateways together.",
)
GAPS = Counter(
    "everstill_loop_gap_messages_total", "Messages that retention removed before they were read, by topic.", ["kind"]
)
REPLACED = Counter(
    "everstill_loop_replaced_partitions_total",
    "Partitions of which another stream lay in the old one's place, or that were cut off below what was read, by topic.",
    ["kind"],
)
CHECKPOINTS = Counter("everstill_loop_checkpoints_total", "Checkpoints written.")
CHECKPOINT_S = Gauge("everstill_loop_checkpoint_s", "Time that the newest checkpoint took, in seconds.")
ERRORS = Counter("everstill_loop_unavailable_total", "Steps that something missing (disk, registry, stream) made wait.")
