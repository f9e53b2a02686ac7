"""How far the loop is: counters, work that is due, the open trial, the live version. All of it is part of the checkpoint."""

import dataclasses
from typing import Any

from distill_loop.gates.trial import TrialState


@dataclasses.dataclass
class Progress:
    """What has been done with the stream so far.

    Pairs: taken, as many as the messages that were read hold; read = learned + held_out + repeats + dead + refused, and that is as many; replayed: how many of them an operator sent again from the dead letters.
    trial_rows: rows of trials, of those that are over too. dead_others: messages of other topics than pairs that are dead letters, by topic.
    gaps: messages that retention removed unread, by topic; new_gaps: those that the ledger hasn't got yet (topic, partition, first offset,
    and the one after the last, the stream's identity); new_replaced: streams that were found to be others, and that the ledger hasn't got yet
    (topic, partition, offset up to which the old one was read, identity of the old one and of the new one, where it was cut off and is read on). steps_due: optimizer steps that new pairs have earned and that were not
    taken yet. cuts: times that a candidate was due; unpromising: how many of them were not worth a trial. asked_at: pairs
    that were learned when a trial was last asked to make room. first_steps: whether the steps before the first version were taken; bootstrap_after: pairs
    before which it isn't tried again. recent_times: of the newest messages of pairs, where the loop is deterministic. newest_pair_unix_ns: time of the newest record learned or held out. live: digest of the version that the ledger made live. learned_from: messages that the open trial's candidate had learned from
    when it was cut, as a ledger line names them.
    """

    taken: int = 0
    read: int = 0
    learned: int = 0
    held_out: int = 0
    repeats: int = 0
    dead: int = 0
    refused: int = 0
    replayed: int = 0
    trial_rows: int = 0
    dead_others: dict[str, int] = dataclasses.field(default_factory=dict)
    gaps: dict[str, int] = dataclasses.field(default_factory=dict)
    new_gaps: list[tuple[str, int, int, int, str]] = dataclasses.field(default_factory=list)
    new_replaced: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    steps_due: float = 0.0
    pairs_since_cut: int = 0
    asked_at: int = 0
    first_steps: bool = False
    bootstrap_after: int = 0
    newest_pair_unix_ns: int = 0
    recent_times: list[int] = dataclasses.field(default_factory=list)
    cuts: int = 0
    unpromising: int = 0
    live: str | None = None
    learned_from: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    trial: TrialState | None = None
    last_cut: dict[str, Any] | None = None
    last_verdict: dict[str, Any] | None = None

    @property
    def kept(self) -> int:
        """Pairs that were learned from or held out."""
        return self.learned + self.held_out

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **state,
            "recent_times": list(self.recent_times),
            "trial": self.trial.state_dict() if self.trial else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        for name, value in {"taken": state["read"], **state}.items():  # a version before counted what was read alone
            setattr(self, name, value)
        self.trial = TrialState.from_state_dict(state["trial"]) if state["trial"] else None
