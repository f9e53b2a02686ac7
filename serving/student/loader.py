"""The loader: takes a version from the registry to the slot - fetch, verify, load, warm up, check golden answers, swap.

Decides whether a version is fit to serve; whatever is wrong with it, the old one goes on. Knows nothing of verdicts: it follows
the pointer. Runs in the control channel's thread, beside the requests.
"""

import pathlib
from collections.abc import Callable

import numpy as np
import structlog

from protos.errors import EverstillError, FormatError, TensorError
from protos.tensors import numpy_type
from registry.bundle import GOLDEN, BundleError
from registry.fetching import LocalBundle, Policy, fetch_bundle, prune_cache
from registry.golden import unpack_golden
from registry.sections import ModelSection, TensorSpec
from registry.store import ObjectStore
from serving.student.session import InputRefused, StudentError, StudentSession
from serving.student.slot import Slot
from serving.telemetry import REFUSED, SWAPS

#: Difference of a golden logit that another machine's arithmetic may cause; absolute and relative.
GOLDEN_TOLERANCE = 1e-3
#: Verified copies of each model kept on this host, so that going back needs no registry; the mirror's candidates are among them.
CACHED_VERSIONS = 16


class Loader:
    """Loads versions into a slot.

    Args:
        policy: what a version has to be, and who has to have signed it.
        cached_versions: kept in the cache, which all models of a gateway share.
        recent_shapes: batch shapes that callers sent lately, by input name.
    """

    def __init__(
        self,
        store: ObjectStore,
        slot: Slot,
        model: ModelSection,
        *,
        cache: pathlib.Path,
        policy: Policy,
        cached_versions: int = CACHED_VERSIONS,
        threads: int,
        drain_deadline_s: float,
        recent_shapes: Callable[[], list[dict[str, tuple[int, ...]]]],
    ) -> None:
        self._store = store
        self._slot = slot
        self._model = model
        self._cache = cache
        self._policy = policy
        self._cached_versions = cached_versions
        self._threads = threads
        self._drain_deadline_s = drain_deadline_s
        self._recent_shapes = recent_shapes
        self._log = structlog.get_logger()

    def load(self, digest: str) -> str | None:
        """Make a version serve; returns None, or why it was refused (the old version serves on)."""
        if self._slot.digest == digest:
            return None
        try:
            session = self._prepare(fetch_bundle(self._store, digest, self._cache, self._policy))
        except (BundleError, StudentError) as error:
            return self._refuse(digest, error, error.reason)
        except EverstillError as error:
            return self._refuse(digest, error, "unavailable")
        except Exception as error:  # a supervision point: whatever is wrong with a version, the old one serves on
            self._log.exception("version failed in an unforeseen way", digest=digest)
            return self._refuse(digest, error, "unforeseen")
        drained = self._slot.swap(session, drain_deadline_s=self._drain_deadline_s)
        SWAPS.labels(self._model.name).inc()
        self._log.info(
            "version swapped in",
            version=session.version,
            digest=digest,
            signed_by=session.signed_by,
            drained=drained,
        )
        self._prune()
        return None

    def _prune(self) -> None:
        try:
            prune_cache(self._cache, keep=self._cached_versions)
        except EverstillError as error:
            self._log.warning("old copies of versions can't be removed", error=str(error))

    def _prepare(self, bundle: LocalBundle) -> StudentSession:
        """Return the loaded, warmed and checked version.

        Raises:
            StudentError: it is for another model, or doesn't give its golden answers.
        """
        check_belongs(bundle, self._model)
        try:  # read before there is a session: a file that isn't one costs nothing
            golden, expected_BC = unpack_golden(bundle.folder / GOLDEN, bundle.manifest.inputs)
        except FormatError as error:
            raise StudentError(f"version {bundle.version}: {error.message}", "wrong_golden") from None
        session = StudentSession.load(bundle, threads=self._threads, extra_outputs=self._model.extra_outputs)
        try:
            actual_BC, _ = session.run_with(golden, [spec.name for spec in self._model.extra_outputs])
        except (InputRefused, TensorError) as error:
            raise StudentError(f"version {bundle.version} can't answer golden rows: {error}", "wrong_golden") from None
        if actual_BC.shape != expected_BC.shape or not np.allclose(
            actual_BC, expected_BC, GOLDEN_TOLERANCE, GOLDEN_TOLERANCE
        ):
            raise StudentError(f"version {bundle.version} doesn't give its golden answers", "wrong_golden")
        if not np.isfinite(actual_BC).all():
            raise StudentError(f"version {bundle.version} answers with NaN or infinity", "not_finite")
        self._warm_up(session)
        return session

    def _warm_up(self, session: StudentSession) -> None:
        """Run the shapes that callers sent lately."""
        types = {spec.name: numpy_type(spec.datatype) for spec in self._model.inputs}
        for shapes in self._recent_shapes():
            rows = {
                name: np.full(shape, b"", object) if types[name].hasobject else np.zeros(shape, types[name])
                for name, shape in shapes.items()
            }
            session.run(rows)

    def _refuse(self, digest: str, error: Exception, reason: str) -> str:
        REFUSED.labels(reason, self._model.name).inc()
        self._log.error("version refused", digest=digest, reason=reason, error=str(error), serving=self._slot.version)
        return f"{reason}: {error}"


def check_belongs(bundle: LocalBundle, model: ModelSection) -> None:
    """Check that a version was made for this model; raises StudentError."""
    outputs = bundle.manifest.output
    if (
        bundle.manifest.model != model.name
        or list(map(_tensor, bundle.manifest.inputs)) != list(map(_tensor, model.inputs))
        or outputs.name != model.output
        or outputs.shape[-1] != model.num_classes
    ):
        raise StudentError(f"version {bundle.version} is of another model than [model] declares", "wrong_model")


def _tensor(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    """Return what makes a tensor; how a learner pads it isn't part of that."""
    return spec.name, spec.datatype, spec.shape
