"""The demo, from an empty folder to the summary: set up, send, watch, stop, score, report.

Decides the order of the story. The service's parts are separate processes; this one is only their caller and their audience.
What the stream is, the recipe says.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from everstill.config import EverstillSettings
from everstill.demo import plot, report
from everstill.demo.audit import audit
from everstill.demo.client import send_all
from everstill.demo.display import Display
from everstill.demo.folder import CONFIG_FILE, LOG_FOLDER, MADE_FOLDER, PICTURE_FILE, SUMMARY_FILE, own_folder
from everstill.demo.pace import Pace
from everstill.demo.score import Sent
from everstill.demo.topics import Stream, check, own_topics
from everstill.demo.watch import Watch
from everstill.recipes.recipe import Material, Order, Recipe
from everstill.stack import Stack
from registry.config import load
from registry.store import open_store
from serving.rpc.client import InferenceClient

RECENT = 200
LOOK_INTERVAL_S = 1.0
#: Where the client waits for the loop, it glances this often, in seconds, and looks this often while it does wait.
GLANCE_S, WAIT_LOOK_S = 0.1, 0.2
#: The mirror is done when nothing waits and no teacher call was counted for QUIET_S; it has SETTLE_S, both in seconds.
QUIET_S, SETTLE_S = 1.0, 15.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the demo shall do; what is None is the recipe's own."""

    recipe: Recipe
    folder: pathlib.Path
    num_requests: int | None = None
    requests_per_s: float | None = None
    drift_share: float | None = None
    seed: int = 0
    stream: Stream = dataclasses.field(default_factory=Stream)

    def settings(self, values: Mapping[str, Any]) -> str:
        """Return the run's everstill.toml."""
        return self.recipe.settings(values) + self.stream.settings()

    @property
    def pace(self) -> float:
        """Requests a second."""
        return self.requests_per_s or self.recipe.requests_per_s

    def order(self, display: Display) -> Order:
        """Return what is asked of the recipe."""
        made = self.folder / MADE_FOLDER
        made.mkdir()
        return Order(
            self.num_requests or self.recipe.num_requests,
            self.drift_share or self.recipe.drift_share,
            self.seed,
            made,
            display.progress(),
        )


def run(plan: Plan) -> dict[str, Any]:
    """Tell the story and return the report; it is also written to the folder, with the picture.

    Raises:
        EverstillError: something was missing or ended early; every process is stopped by then.
    """
    start = time.monotonic()
    recipe = plan.recipe
    with own_folder(plan.folder), Display() as display, _said_when_interrupted(display):
        config = plan.folder / CONFIG_FILE
        check(plan.stream, config)
        display.say(recipe.gathering)
        material = recipe.gather(plan.order(display))
        display.say(
            f"  {len(material.rows):,} different {recipe.rows_are}; the drift comes at request {material.drift:,}"
        )
        if len(material.rows) < recipe.requests_for_a_swap:
            display.say(f"  {report.few_requests(recipe.requests_for_a_swap)}")
        values = _values(plan, material)
        config.write_text(plan.settings(values))
        with own_topics(plan.stream, config, display.say), Stack(plan.folder) as stack:
            settings = _start(stack, plan, values, display)
            store = open_store(settings.registry.url)
            sending = _Sending(
                stack,
                Watch(store, settings.model.name, settings.gateway.id),
                display,
                material,
                Pace(recipe.waits, settings.release.bootstrap_pairs),
            )
            sent = sending.send(settings.model.name, plan.pace)
            _settle(sending.watch)
            stack.stop("gateway")
            stack.stop("loop")
            view = sending.watch.look()
            frozen_version = next((one.version for one in reversed(sent[: material.drift]) if not one.error), "")
            scores = audit(
                stack, store, settings, material.rows, material.drift, frozen_version, view.lines, display,
                batch=recipe.scoring_batch,
            )  # fmt: skip
        body = report.build(
            sent,
            scores,
            material.drifts,
            view,
            recipe=recipe,
            stream=plan.stream,
            requests_per_s=plan.pace,
            waited_s=sending.pace.waited_s,
            trial_opened_at=sending.trials_opened_at,
            frozen_version=frozen_version,
            wall_s=time.monotonic() - start,
        )
        (plan.folder / SUMMARY_FILE).write_text(json.dumps(body, indent=1))
        plot.plot(plan.folder / PICTURE_FILE, sent, scores, body, report.title(body))
        display.say(
            f"\n{report.summarise(body, recipe)}\n\n"
            f"report: {plan.folder / SUMMARY_FILE}\npicture: {plan.folder / PICTURE_FILE}"
        )
    return body


@contextlib.contextmanager
def _said_when_interrupted(display: Display) -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does: everything is stopped, and that is said."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        display.say("interrupted: every process was stopped")
        raise
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _values(plan: Plan, material: Material) -> dict[str, Any]:
    """Return what fills the recipe's placeholders; the teacher's address isn't known yet."""
    return {
        "TEACHER": "",
        "ONNX": material.teacher,
        "LABELS": list(material.labels),
        "SEED": plan.seed,
        "SEED_TEXT": f"everstill-{plan.seed}",
    }


def _start(stack: Stack, plan: Plan, values: Mapping[str, Any], display: Display) -> EverstillSettings:
    """Start teacher, loop and gateway; returns the settings that they run with."""
    config = plan.folder / CONFIG_FILE
    teacher = stack.start("teacher", ["serving.app", "teacher", "--config", str(config)])
    address = stack.started_event(teacher)["address"]
    config.write_text(plan.settings({**values, "TEACHER": address}))
    settings = load(config, EverstillSettings)
    loop = stack.start("loop", ["distill_loop.app", "--config", str(config)])
    gateway = stack.start("gateway", ["serving.app", "gateway", "--config", str(config)])
    watch = Watch(open_store(settings.registry.url), settings.model.name, settings.gateway.id)
    client = InferenceClient(stack.wait_for(gateway, lambda: watch.look().gateway.get("address"), "its port was open"))
    try:
        stack.wait_for(gateway, client.ready, "it was ready")
    finally:
        client.close()
    stack.wait_for(loop, lambda: watch.look().loop, "it had told its status", 120.0)
    display.say(
        f"  teacher on {address}, gateway on {watch.view.gateway['address']}, loop running; stream: {plan.stream}; "
        f"logs in {plan.folder / LOG_FOLDER}"
    )
    return settings


class _Sending:
    """Sends everything while showing how it goes.

    `trials_opened_at` holds, by trial, the request at which it was first seen open.
    """

    def __init__(self, stack: Stack, watch: Watch, display: Display, material: Material, pace: Pace) -> None:
        self.watch = watch
        self.pace = pace
        self.trials_opened_at: dict[str, int] = {}
        self._stack = stack
        self._display = display
        self._material = material
        self._recent_ms: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._num_sent = self._num_failed = 0
        self._looked_at = self._glanced_at = 0.0

    def send(self, model: str, requests_per_s: float) -> list[Sent]:
        """Send every row once and return what was answered."""
        address = self.watch.look().gateway["address"]
        return send_all(
            address, model, self._material.rows, requests_per_s, on_sent=self._note, before_each=self._before_each
        )

    def _note(self, one: Sent) -> None:
        self._num_sent += 1
        self._num_failed += bool(one.error)
        self._recent_ms.append(one.latency_s * 1e3)

    def _before_each(self, index: int) -> float:
        """Look and show when it is time to, and wait while the pace says so; returns the seconds waited."""
        began = time.monotonic()
        self._look(LOOK_INTERVAL_S)
        if self.pace.waits and began - self._glanced_at > GLANCE_S:
            self._glanced_at = began
            self.watch.glance()
        waited = False
        while self.pace.must_wait(index, self.watch.view, time.monotonic()):
            waited = True
            time.sleep(GLANCE_S / 4)
            self.watch.glance()
            self._look(WAIT_LOOK_S)
        return time.monotonic() - began if waited else 0.0

    def _look(self, interval_s: float) -> None:
        if time.monotonic() - self._looked_at < interval_s:
            return
        self._looked_at = time.monotonic()
        self._stack.check()
        view = self.watch.look()
        if trial := view.loop.get("trial"):
            self.trials_opened_at.setdefault(trial["trial_id"], self._num_sent)
        newest = list(self._recent_ms)
        self._display.show(
            view,
            num_sent=self._num_sent,
            num_all=len(self._material.rows),
            phase="before the drift" if self._num_sent < self._material.drift else "after the drift",
            latency_ms=(float(np.percentile(newest, 50)), float(np.percentile(newest, 99))) if newest else None,
            failed=self._num_failed,
        )


def _settle(watch: Watch) -> None:
    """Wait until the mirror has asked about the last samples, so that the count of teacher calls misses none."""
    end = time.monotonic() + SETTLE_S
    quiet_since, counted = time.monotonic(), -1
    while time.monotonic() < min(end, quiet_since + QUIET_S):
        view = watch.look()
        if view.waiting_bytes or view.teacher_calls != counted:
            quiet_since, counted = time.monotonic(), view.teacher_calls
        time.sleep(0.1)
