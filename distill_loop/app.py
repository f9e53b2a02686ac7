"""`python -m distill_loop.app --config F [--model NAME] [--check]`: the loop's process. Connects the rooms, holds the lease, tells its status.

Stops on SIGTERM or SIGINT after a last checkpoint; exits when another loop took its lease over. Something that is away (disk,
registry, stream) makes it wait and try again, with what it knows intact.
"""

import argparse
import contextlib
import gc
import os
import pathlib
import signal
import sys
import time

import structlog
from prometheus_client import start_http_server

from distill_loop import check
from distill_loop.config import LoopSettings, digest_of
from distill_loop.desk import Desk
from distill_loop.gates.agreement import ProgressiveAgreement
from distill_loop.gates.promise import Promise
from distill_loop.gates.slices import SliceShares
from distill_loop.intake import Intake
from distill_loop.judge import Judge
from distill_loop.labels import Labels
from distill_loop.learner.reading import PairReader
from distill_loop.learner.step import Learner
from distill_loop.loop import Loop
from distill_loop.memory import Memory, Part
from distill_loop.progress import Progress
from distill_loop.release.office import ReleaseOffice
from distill_loop.stream.dead_letter import DeadLetters
from distill_loop.stream.dedupe import Dedupe
from distill_loop.stream.reports import Reports
from distill_loop.stream.streams import check_stream, letters_of, open_consumer, open_writer
from distill_loop.telemetry import ERRORS
from distill_loop.telling import Telling
from distill_loop.trials import Trials
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from protos.topics import LABELS, PAIRS, REPORTS, TRIALS
from registry import logs
from registry.at_rest import AtRest
from registry.code_version import code_version
from registry.config import load
from registry.fetching import Policy
from registry.kafka_options import OVERHEAD_BYTES
from registry.lease import Lease, LeaseHeld
from registry.ledger import Facts, Range
from registry.signing import signer_for
from registry.stopping import Stopping
from registry.store import ObjectStore, open_store

#: Wait after something was away, in seconds.
UNAVAILABLE_WAIT_S = 1.0
#: An outage is told again after this, in seconds.
AWAY_AGAIN_S = 60.0
#: A lease is renewed after this part of its length.
RENEW_AFTER = 0.3
#: New objects after which Python looks for garbage, and its two ratios.
COLLECT_AFTER = (50_000, 20, 50)


class LoopProcess:
    """The loop with everything around it."""

    def __init__(self, settings: LoopSettings, store: ObjectStore, lease: Lease) -> None:
        self._settings = settings
        self._store = store
        self._lease = lease
        self._renewed_at = time.monotonic()
        model = settings.model
        self.progress = Progress()
        self._learner = Learner(settings.learner, model)
        self._agreement = ProgressiveAgreement(settings.loop.agreement_window)
        self._promise, self._dedupe, self._reports = Promise(), Dedupe(settings.loop.dedupe_records), Reports()
        self._slices = SliceShares()
        self._labels = Labels(
            num_classes=model.num_classes,
            window_s=settings.loop.label_window_s,
            max_records=settings.loop.label_records,
            rows=settings.loop.agreement_window,
        )
        kinds = {TRIALS: 1, PAIRS: settings.stream.partitions, LABELS: settings.stream.partitions, REPORTS: 1}
        self._consumer = open_consumer(settings.stream, model.name, kinds)
        self.dead_letters = DeadLetters(
            open_writer(settings.stream, model.name),
            lambda: letters_of(settings.stream, model.name),
            max_bytes=settings.stream.max_message_bytes + OVERHEAD_BYTES,
        )
        self.intake = self._make_intake()
        self._office = self._make_office()
        self._desk = self._make_desk()
        self._telling = self._make_telling()
        self.loop = Loop(self.intake, self._desk, self._make_memory(), deterministic=settings.loop.deterministic)
        self._log = structlog.get_logger()

    def _make_intake(self) -> Intake:
        settings, reader = self._settings, PairReader(self._settings.model)
        return Intake(
            self._consumer,
            self.dead_letters,
            self._dedupe,
            Judge(self.progress, self._learner, reader, self._agreement, self._promise, self._slices),
            reader,
            self._learner,
            self.progress,
            self._reports,
            model=settings.model,
            settings=settings.learner,
            max_messages=settings.loop.max_messages,
            max_message_bytes=settings.stream.max_message_bytes,
            labels=self._labels,
            deterministic=settings.loop.deterministic,
        )

    def _make_office(self) -> ReleaseOffice:
        settings = self._settings
        return ReleaseOffice(
            self._store,
            settings.model,
            settings.release,
            cache=settings.registry.cache,
            policy=Policy.of(settings.signing, settings.bundles),
            signer=signer_for(settings.signing),
            epoch=self._lease.epoch,
            actor=f"loop epoch {self._lease.epoch}",
            text_bytes=settings.learner.text_bytes,
            facts=Facts(digest_of(settings), code_version()),
        )

    def _make_desk(self) -> Desk:
        settings = self._settings
        now_ns = (lambda: self.progress.newest_pair_unix_ns) if settings.loop.deterministic else time.time_ns
        trials = Trials(
            self.progress,
            self._learner,
            self._office,
            gate=settings.gate,
            observe_only=settings.release.observe_only,
            promise=self._promise,
            slices=self._slices,
            teacher_away=lambda: self._reports.teacher_away,
            learned_from=self._read_so_far,
            now_ns=now_ns,
        )
        return Desk(
            self.progress,
            self._learner,
            self._office,
            trials,
            release=settings.release,
            model=settings.model,
            promise=self._promise,
            sign_of_life=self.renew_lease,
            learned_from=self._read_so_far,
            now_ns=now_ns,
        )

    def _read_so_far(self) -> tuple[Range, ...]:
        """Return which messages of pairs the learner has been given."""
        ends = {partition: end for (kind, partition), end in self._consumer.positions().items() if kind == PAIRS}
        return self._office.learned_from(PAIRS, ends, self._consumer.streams().get(PAIRS, ""))

    def _make_telling(self) -> Telling:
        return Telling(
            self._store,
            self._settings.model.name,
            self.progress,
            self._learner,
            self._agreement,
            self._desk,
            self._office,
            self._consumer,
            self._reports,
            self._labels,
            epoch=self._lease.epoch,
            every_s=self._settings.loop.status_interval_s,
        )

    def _make_memory(self) -> Memory:
        settings = self._settings
        parts: dict[str, Part] = {
            "learner": self._learner,
            "progress": self.progress,
            "dedupe": self._dedupe,
            "agreement": self._agreement,
            "promise": self._promise,
            "slices": self._slices,
            "reports": self._reports,
            "labels": self._labels,
        }
        return Memory(
            self._store,
            settings.model.name,
            parts,
            self._consumer,
            self.dead_letters,
            AtRest.of(settings.at_rest),
            epoch=self._lease.epoch,
            every_s=settings.loop.checkpoint_every_s,
            every_messages=settings.loop.checkpoint_every_messages if settings.loop.deterministic else None,
            tip=lambda: (tip.number, tip.hash) if (tip := self._office.tip) else (0, ""),
        )

    def run(self, stopping: Stopping) -> None:
        """Turn until told to stop, then save.

        Raises:
            LeaseLost, ConflictError: another loop took over. FormatError: the checkpoint can't be read.
        """
        student = self._learner.student
        checked = self._desk.prepare()
        self._log.info(
            "student",
            student=student.name,
            chosen=self._settings.learner.student,
            parameters=student.num_parameters,
            num_bytes=checked.num_bytes,
            latency_ms=checked.latency_ms,
            facts=dict(student.facts),
        )
        self.loop.start()
        outage = Outage()
        while not stopping.heard():
            try:
                self.renew_lease()
                if outage.lasts:
                    self.loop.go_on()
                busy = self.loop.turn()
                self._telling.tell()
                outage.ended()
            except UnavailableError as error:
                ERRORS.inc()
                outage.go_on(str(error))
                with contextlib.suppress(UnavailableError):  # perhaps it is the store
                    self._telling.tell()
                stopping.heard(UNAVAILABLE_WAIT_S)
                continue
            if not busy:
                stopping.heard(self._settings.loop.poll_interval_s)
        self.loop.stop()
        self._telling.tell(stopped=True)
        self._lease.release()
        self._consumer.close()
        self.dead_letters.close()

    def renew_lease(self) -> None:
        """Renew the lease when it is time to."""
        if time.monotonic() - self._renewed_at > self._settings.loop.lease_s * RENEW_AFTER:
            self._lease.renew()
            self._renewed_at = time.monotonic()


class Outage:
    """Something that the loop needs is away: said when it begins, when its reason changes, each minute, and when it is over."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = ("", 0.0)
        self._log = structlog.get_logger()

    @property
    def lasts(self) -> bool:
        """Whether something is away."""
        return self._since is not None

    def go_on(self, reason: str) -> None:
        """Note that something is away, for this reason."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if reason != self._told[0] or now - self._told[1] > AWAY_AGAIN_S:
            self._told = reason, now
            self._log.error("something is away, the loop waits", error=reason, seconds=round(now - self._since, 1))

    def ended(self) -> None:
        """Note that nothing is away."""
        if self._since is not None:
            self._log.info("what was away is back", seconds=round(time.monotonic() - self._since, 1))
        self._since, self._told = None, ("", 0.0)


def acquire_lease(store: ObjectStore, settings: LoopSettings, stopping: Stopping) -> Lease:
    """Take the lease, waiting as long as a loop that died may still hold it.

    Raises:
        LeaseHeld: another loop is alive.
    """
    owner = f"loop-{os.getpid()}-{time.time_ns()}"
    end = time.monotonic() + 1.5 * settings.loop.lease_s
    while True:
        try:
            return Lease.acquire(store, settings.model.name, "loop", owner, settings.loop.lease_s)
        except LeaseHeld as error:
            if time.monotonic() > end or stopping.heard():
                raise
            structlog.get_logger().info("waiting for the lease", reason=str(error))
            stopping.heard(min(1.0, settings.loop.lease_s / 4))


def main(arguments: list[str] | None = None) -> int:
    """Run the loop until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="distill_loop.app", description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, default=None, help="everstill.toml")
    parser.add_argument("--model", default=None, help="which of the file's models")
    parser.add_argument(
        "--check", action="store_true", help="say whether the student can be made and exported, and exit"
    )
    parsed = parser.parse_args(arguments)
    stopping = Stopping(signal.SIGTERM, signal.SIGINT)
    try:
        settings = load(parsed.config, LoopSettings, model=parsed.model)
        logs.configure("loop", settings.log)
        # A module of the user's lies beside the file, as a script's modules lie beside the script.
        sys.path.insert(0, str((parsed.config.parent if parsed.config else pathlib.Path()).resolve()))
        if parsed.check:
            check.tell(settings)
            return 0
        os.nice(settings.loop.nice)
        _start_metrics(settings.loop.metrics_port)
        store = open_store(settings.registry.url)
        check_stream(settings.stream, settings.model.name)
        lease = acquire_lease(store, settings, stopping)
        try:
            process = LoopProcess(settings, store, lease)
            structlog.get_logger().info("loop started")
            # Modules and the net live as long as the process, and pairs for long: looking at them again and again took a third of the time.
            gc.freeze()
            gc.set_threshold(*COLLECT_AFTER)
            process.run(stopping)
        except ConfigurationError:
            lease.release()  # nothing was begun: who mends the settings needn't wait for it
            raise
        finally:
            gc.unfreeze()
    except EverstillError as error:
        print(f"everstill loop: {error}", file=sys.stderr)
        return error.exit_code
    structlog.get_logger().info("loop stopped")
    return 0


def _start_metrics(port: int) -> None:
    try:
        start_http_server(port, "127.0.0.1")
    except OSError as error:
        raise UnavailableError(f"port {port} is taken: {error.strerror}", fix="Set loop.metrics_port") from None


if __name__ == "__main__":
    raise SystemExit(main())
