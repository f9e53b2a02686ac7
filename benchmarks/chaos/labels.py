"""The books of feedback: each label that a gateway took is on the topic or counted as lost, and each on the topic is counted once by the loop.

Which rows a label joins is computed from the pairs topic and what the loop keeps; what was lost after the hand-over is in the mirror's journal. Decides
what must agree; reads nothing itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.chaos.callers import Records
from benchmarks.harness import Check
from protos.topics import LABELS


@dataclasses.dataclass(frozen=True)
class LabelBooks:
    """What was read of labels.

    sent: the calls; on_topic: how often each row's label lies there; kept: rows that the loop learned or held out; counted: what became of labels in
    the loop, those that wait too; removed: messages that are dead letters or went with retention; lost: labels that the mirror, or a ring, dropped.
    """

    sent: Records
    on_topic: Mapping[str, int]
    kept: frozenset[str]
    counted: Mapping[str, int]
    removed: int = 0
    lost: int = 0

    @property
    def accepted(self) -> frozenset[str]:
        """Rows whose label the gateway took."""
        return frozenset(one.decode() for one in self.sent["record_id"][self.sent["code"] == "OK"])

    def figures(self) -> dict[str, float]:
        """Return what a result shows."""
        return {
            "labels_sent": len(self.sent),
            "labels_on_topic": sum(self.on_topic.values()),
            **{f"labels_{name}": self.counted[name] for name in ("joined", "repeated", "waiting")},
            "labels_lost": self.lost,
        }

    def checks(self) -> list[Check]:
        """Return what must hold."""
        counted, total = self.counted, sum(self.on_topic.values())
        joined = counted["joined"] + counted["no_estimate"]
        return [
            Check("failed_feedback", int((self.sent["code"] != "OK").sum()), "==", 0),
            Check("labels_accepted_that_nobody_accounts_for", len(self.accepted - self.on_topic.keys()) - self.lost, "==", 0),
            Check("labels_on_topic_that_nobody_sent", len(self.on_topic.keys() - self.accepted), "==", 0),
            Check("labels_on_topic_less_counted_by_the_loop", total - sum(counted.values()), "==", 0),
            Check("label_messages_removed", self.removed, "==", 0),
            Check("labels_joined_less_computed", joined - len(self.on_topic.keys() & self.kept), "==", 0),
            Check("labels_repeated_less_computed", counted["repeated"] - (total - len(self.on_topic)), "==", 0),
        ]  # fmt: skip


def counted_of(state: Mapping[str, Any], id_bytes: int) -> dict[str, int]:
    """Return what a checkpoint's labels say of themselves, by outcome, with those that wait."""
    return {**state["counts"], "waiting": len(state["waiting"]) // id_bytes}


def lost_of(accounts: Mapping[str, Any]) -> int:
    """Return the labels that a mirror's journal counts as lost: in a spool, or in a ring."""
    counts: list[Mapping[str, int]] = [accounts["fates"].get(fate, {}) for fate in ("dropped", "missing")]
    counts += [worker.get("gaps", {}) for worker in accounts["workers"].values()]
    return sum(one.get(LABELS, 0) for one in counts)
