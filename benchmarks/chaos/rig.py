"""The rig: what everstill is made of, as real processes, where each can be broken while callers go on calling.

Gateway (one worker), mirror, loop, a teacher that answers at once, brokers, and a network between mirror and broker that can be cut.
With `pinned` the worker has core 0 for itself and everything else shares core 1 at the lowest priority, the callers excepted: what callers see is then
the gateway's doing. Decides how parts are started, killed and waited for; knows no fault and judges nothing.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.chaos.callers import Callers, Records
from benchmarks.chaos.proxy import Proxy
from benchmarks.harness import ROOT, say
from benchmarks.pairs import MODEL, NUM_CLASSES, NUM_FEATURES, settings_with
from benchmarks.processes import Gateway, create_topics, running, teacher_elsewhere, wait_until, write_settings
from distill_loop.learner import checkpoint
from registry.pointers import Pointers
from registry.status import read_statuses
from registry.store import open_store
from serving.shadow.rings import folder_of
from tests.support.kafka import Cluster, free_base_port, need_kafka

PARTITIONS = 4
WORKER_CORE, OTHERS_CORE = 0, 1
LOWEST, CALLERS_NICE = 19, -5
#: Longest time until everything that was spooled is learned.
REST_S = 300.0
#: Rows a second of which callers say what was true: known, and too few to slow anybody down.
FEEDBACK_PER_S = 10.0
#: Pairs after which a candidate is cut, where a trial is to be open; and a gate that doesn't decide it within so many rows, which are fewer than half of
#: what a trial of the learner as it is by then could take, so that it isn't superseded either. Its arm takes no row beside the uniform one's: which rows
#: are sampled stays known from their ids.
TRIAL_PAIRS = 64
UNDECIDED = {
    "alpha": 1e-300,
    "futility_evidence": 1e300,
    "max_rows": 20_000,
    "max_pairs": 10**9,
    "stalled_pairs": 10**9,
    "max_share": 1e-12,
}
#: Lines for a broker that mirrors reach by another way than everybody else, through the proxy; and whose death is believed sooner, so that it
#: may come back sooner.
TWO_WAYS = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},MIRROR://127.0.0.1:{behind}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},MIRROR://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,MIRROR:PLAINTEXT
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is built. rate: calls a second, 0 for full load; sampling: probability of a row; trial: whether one is open; capture, kafka: more settings
    of those sections."""

    rate: float = 200.0
    sampling: float = 0.5
    num_brokers: int = 1
    pinned: bool = False
    trial: bool = False
    capture: dict[str, Any] = dataclasses.field(default_factory=dict)
    kafka: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 1


class LoopProcess:
    """The loop, started and killed by hand."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._store = open_store(str(folder / "everstill-data/registry"))
        self._pointers = Pointers(self._store, MODEL)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; doesn't wait."""
        command = [sys.executable, "-m", "distill_loop.app", "--config", str(self._folder / "loop.toml")]
        with (self._folder / "loop.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def status(self) -> dict[str, Any]:
        """Return what this process said last; empty before its first word."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the loop ended with {self.process.returncode}: {self.log()[-2000:]}")
        status = read_statuses(self._store, MODEL).get("loop", {})
        return status if status.get("pid") == self.process.pid else {}

    def checkpoint(self) -> dict[str, Any]:
        """Return the newest checkpoint's state; empty before the first."""
        pointer = self._pointers.checkpoint()
        return checkpoint.load(self._store.get(pointer.path).data) if pointer else {}

    def log(self) -> str:
        """Return what it wrote."""
        return (self._folder / "loop.log").read_text()


@dataclasses.dataclass
class Rig:
    """The running whole."""

    plan: Plan
    folder: pathlib.Path
    cluster: Cluster
    network: Proxy | None
    gateway: Gateway
    loop: LoopProcess
    callers: Callers
    calls: list[Records] = dataclasses.field(default_factory=list)
    feedback: list[Records] = dataclasses.field(default_factory=list)
    windows: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)
    num_bursts: int = 0

    @contextlib.contextmanager
    def window(self, kind: Literal["steady", "fault"]) -> Iterator[None]:
        """Remember that calls of this time are to be judged as steady, or as made during a fault."""
        start_s = time.monotonic()
        yield
        self.windows.append((kind, start_s, time.monotonic()))

    def steady(self, seconds: float) -> None:
        """Let callers call for a while, with all parts at work."""
        with self.window("steady"):
            time.sleep(seconds)

    @contextlib.contextmanager
    def burst(self) -> Iterator[None]:
        """Let more callers call at full load for a while; they are judged like the others, but for their latency."""
        self.num_bursts += 1
        niceness = CALLERS_NICE if self.plan.pinned else None
        seed = self.plan.seed + 100 * self.num_bursts
        with Callers(self.gateway.address, self.folder, rate=0.0, num_callers=4, seed=seed, nice=niceness) as more:
            more.start()
            yield
            self.calls.append(more.stop().calls)

    @property
    def capture_folder(self) -> pathlib.Path:
        """Where rings, spools and journal lie."""
        return folder_of(pathlib.Path(self.plan.capture.get("dir", self.folder / "everstill-data/capture")), MODEL)

    @property
    def free_bytes(self) -> int:
        """Room on the disk below rings and spools."""
        return shutil.disk_usage(self.plan.capture.get("dir", self.folder)).free

    @property
    def mirror_pid(self) -> int:
        """The mirror's process number, 0 where there is none."""
        return int(self.gateway.status().get("mirror_pid") or 0)

    def kill_mirror(self) -> None:
        """End the mirror as a crash would; returns once another one runs."""
        before = self.mirror_pid
        os.kill(before, signal.SIGKILL)
        self.gateway.wait(lambda: self.mirror_pid not in (0, before), "another mirror")

    def kill_loop(self) -> None:
        """End the loop as a crash would, and start another; doesn't wait for it."""
        self.loop.kill()
        self.loop.start()

    def wait_for_loop(self) -> None:
        """Wait until the loop reads."""
        wait_until(lambda: self.loop.status().get("pairs"), "the loop to read", every_s=0.05)

    def wait_for_pairs(self, num_pairs: int) -> None:
        """Wait until the loop has read so many pairs more."""
        first = self.pairs_read()
        wait_until(lambda: self.pairs_read() >= first + num_pairs, f"{num_pairs} pairs to be read", every_s=0.05)

    def pairs_read(self) -> int:
        """Return how many pairs the loop has read, repeats included."""
        return int(self.loop.status().get("pairs", {}).get("read", 0))

    def rest(self) -> None:
        """Stop the callers and wait until nothing is on its way: rings and spools empty, nothing to read."""
        seen = self.callers.stop()
        self.calls.append(seen.calls)
        self.feedback.append(seen.feedback)
        held = ("everstill_shadow_ring_bytes", "everstill_shadow_spool_bytes")
        self.gateway.wait(lambda: not any(map(self.gateway.metric, held)), "empty rings and spools", REST_S)
        self.wait_for_loop()
        try:
            wait_until(
                lambda: self.loop.status().get("lag") == 0,
                "the loop to read everything",
                deadline_s=REST_S,
                every_s=0.1,
            )
        except TimeoutError as error:
            raise TimeoutError(
                f"{error}; it says {self.loop.status()}; its log ends {self.loop.log()[-1000:]}"
            ) from None

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Rest for a while; the callers call again afterwards."""
        try:
            self.rest()
            yield
        finally:
            self.callers.start()


@contextlib.contextmanager
def rig(folder: pathlib.Path, plan: Plan) -> Iterator[Rig]:
    """Build everything and start the callers; all of it has ended when this returns."""
    need_kafka()
    with contextlib.ExitStack() as stack:
        if plan.pinned:  # whatever is started from here on
            os.sched_setaffinity(0, {OTHERS_CORE})
            os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
        cluster, network, mirrors_way = _start_brokers(folder / "brokers", plan, stack)
        asked = stack.enter_context(
            teacher_elsewhere(
                folder / "teacher", "--row-s", "0", "--classes", str(NUM_CLASSES), "--output", "output", "--by-input"
            )
        )
        home = folder / "everstill"
        sections = _sections(plan, mirrors_way, asked)
        direct = {**sections, "stream.kafka": {**sections["stream.kafka"], "bootstrap": cluster.bootstrap}}
        write_settings(folder / "topics.toml", direct)
        create_topics(folder / "topics.toml")
        process = stack.enter_context(running("gateway", home, sections))
        write_settings(home / "loop.toml", direct)
        (home / "first.onnx").write_bytes(first_version(plan.seed))
        loop = LoopProcess(home)
        stack.callback(loop.stop)
        loop.start()
        gateway = Gateway(home, process, MODEL)
        gateway.wait(lambda: gateway.status().get("live"), "a version")
        if plan.pinned:
            _move(gateway.status()["worker_pid"], WORKER_CORE, 0)
        niceness = CALLERS_NICE if plan.pinned else None
        callers = stack.enter_context(
            Callers(
                gateway.address,
                folder,
                rate=plan.rate,
                feedback_rate=FEEDBACK_PER_S,
                seed=plan.seed,
                nice=niceness,
            )
        )
        whole = Rig(plan, home, cluster, network, gateway, loop, callers)
        whole.wait_for_loop()
        callers.start()
        if plan.trial:
            wait_until(lambda: loop.status().get("trial"), "a trial", every_s=0.05)
        say(f"the rig stands: {plan}")
        yield whole


def _start_brokers(folder: pathlib.Path, plan: Plan, stack: contextlib.ExitStack) -> tuple[Cluster, Proxy | None, str]:
    """Return the brokers, the network before them (of one broker only), and how mirrors are told to reach them."""
    folder.mkdir(parents=True)
    port = free_base_port(2 * plan.num_brokers + 2)
    if plan.num_brokers > 1:
        cluster = Cluster(folder, plan.num_brokers, port)
        stack.callback(cluster.stop)
        cluster.start()
        return cluster, None, cluster.bootstrap
    behind, proxy = port + 2, port + 3
    ways = TWO_WAYS.format(port=port, controller=port + 1, behind=behind, proxy=proxy)
    cluster = Cluster(folder, 1, port, ways)
    stack.callback(cluster.stop)
    cluster.start()
    network = stack.enter_context(Proxy(proxy, f"127.0.0.1:{behind}"))
    return cluster, network, f"127.0.0.1:{proxy}"


def _sections(plan: Plan, bootstrap: str, teacher: str) -> dict[str, dict[str, Any]]:
    never = 10**9
    sections: dict[str, dict[str, Any]] = {
        "gateway": {"port": 0, "metrics_port": 0, "follow_interval_s": 0.1},
        "stream": {"partitions": PARTITIONS},
        "stream.kafka": {
            "bootstrap": bootstrap,
            "replication": min(3, plan.num_brokers),
            "min_insync": min(2, plan.num_brokers),
            **plan.kafka,
        },
        "capture": {
            "rate": plan.sampling,
            "report_interval_s": 1.0,
            "mirror_nice": LOWEST if plan.pinned else 0,
            **plan.capture,
        },
        "teacher": {"address": teacher, "output": "output"},
        # No candidate is cut, or none decided, so that the gateway serves one version throughout: swaps have a benchmark of their own.
        "release": {"first_version": "first.onnx", "cut_every_pairs": TRIAL_PAIRS if plan.trial else never},
        "gate": UNDECIDED,
        "loop": {
            "checkpoint_every_s": 0.5,
            "status_interval_s": 0.2,
            "lease_s": 2.0,
            "nice": LOWEST if plan.pinned else 0,
        },
    }
    return settings_with(sections)


def first_version(seed: int) -> bytes:
    """Return an ONNX file that serves from the beginning: one layer with random weights."""
    weights_FC = np.random.default_rng(seed).normal(0, NUM_FEATURES**-0.5, (NUM_FEATURES, NUM_CLASSES))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["logits"])],
        "first",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", NUM_FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_CLASSES])],
        [numpy_helper.from_array(weights_FC.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _move(pid: int, core: int, niceness: int) -> None:
    """Give all threads of a process a core and a niceness; threads that they start inherit both."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
        os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)
