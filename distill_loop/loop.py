"""The loop: read, judge, learn, release, remember - the whole cycle on one page.

Decides the order, and nothing else: rooms do the work, app.py connects them. What must hold: a record is judged before it
is learned from; what was done and what was read are remembered together, in one checkpoint; a decision is written before it is
acted on. Where the loop is deterministic it does all of this after each message, so that what it has become depends on the messages alone.
One thread.
"""

from distill_loop.desk import Desk
from distill_loop.intake import Intake
from distill_loop.memory import Memory
from distill_loop.stream.consumer import Message

#: Steps between two looks at the stream, so that a verdict never waits long.
STEPS_PER_TURN = 8


class Loop:
    """One student's endless cycle.

    Args:
        intake: reads the stream, judges and takes in pairs.
        desk: trials and releases.
        memory: checkpoints of all of it.
        deterministic: whether every step is taken before the next message is looked at.
    """

    def __init__(self, intake: Intake, desk: Desk, memory: Memory, *, deterministic: bool = False) -> None:
        self._intake = intake
        self._desk = desk
        self._memory = memory
        self._deterministic = deterministic

    def start(self) -> None:
        """Go on where the last loop stopped: restore, then let the ledger have the last word."""
        self._memory.restore()
        self._desk.reconcile()
        self._desk.release_file(self._memory.save)
        if self._desk.bootstrap_due():  # the last one was killed between its steps and its release
            self._desk.bootstrap(self._memory.save)

    def turn(self) -> bool:
        """Go round once; returns False where there was nothing to do."""
        self._desk.follow()
        messages = self._intake.poll()
        if not self._deterministic:
            return self._go_round(messages, STEPS_PER_TURN)
        for message in messages:
            self._go_round([message], None)
        return bool(messages)

    def _go_round(self, messages: list[Message], max_steps: int | None) -> bool:
        self._intake.take(messages)
        num_steps = self._intake.learn(max_steps)
        self._desk.report_gaps()
        released = self._desk.close_decided_trial()
        if self._desk.bootstrap_due():
            self._desk.bootstrap(self._memory.save)
        elif self._desk.cut_due():
            self._desk.cut(self._memory.save)
        if released or self._memory.due():
            self._memory.save()
        return bool(messages or num_steps or released)

    def go_on(self) -> None:
        """After something was away in the middle of a turn: a decision that was written is acted on, whatever came since."""
        self._desk.reconcile()

    def stop(self) -> None:
        """Remember everything once more; what the last look at the stream found missing too."""
        self._intake.note_gaps()
        self._desk.report_gaps()
        self._memory.save()
