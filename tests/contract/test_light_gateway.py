"""A gateway host carries no torch: `everstill[serving]` doesn't install it, and no module of a gateway imports it."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import textwrap

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]
#: What only the loop, the demo or a developer needs.
HEAVY = {"torch", "triton", "onnx", "onnxscript", "matplotlib", "magika", "pytest", "mypy", "grpcio-tools"}
#: Rooms that run where `everstill[serving]` alone is installed; protos.generate is a developer's tool.
LIGHT_ROOMS = ("protos", "registry", "serving")
LIGHT_MODULES = ("everstill.cli", "everstill.config", "distill_loop.config", "distill_loop.gates.app")


def light_modules() -> list[str]:
    paths = [path.relative_to(ROOT).with_suffix("") for room in LIGHT_ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted({".".join(path.parts).removesuffix(".__init__") for path in paths} | set(LIGHT_MODULES))


def pinned(file: str) -> set[str]:
    text = (ROOT / "requirements" / file).read_text()
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", text, re.MULTILINE))


def required_by(name: str, extras: frozenset[str]) -> set[str]:
    """Return the names of everything that a distribution requires on Linux, from the metadata of what is installed."""
    found: set[str] = set()
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra, "sys_platform": "linux"}) for extra in extras | {""}
        )
        if wanted:
            needed = requirement.name.lower().replace("_", "-")
            found |= {needed} | required_by(needed, frozenset(requirement.extras))
    return found


def test_the_requirements_of_serving_hold_nothing_heavy() -> None:
    names = pinned("serving.txt")

    assert {"grpcio", "onnxruntime", "prometheus-client"} <= names
    assert not names & HEAVY
    assert not {name for name in names if name.startswith("nvidia-")}


def test_the_requirements_of_the_loop_hold_torch() -> None:
    assert "torch" in pinned("loop.txt")


def test_the_installed_metadata_of_serving_closes_without_torch() -> None:
    closure = required_by("everstill", frozenset({"serving"}))

    assert {"grpcio", "onnxruntime"} <= closure
    assert not closure & HEAVY
    assert closure <= pinned("serving.txt")


def test_every_module_of_a_gateway_is_imported_where_torch_is_not() -> None:
    program = """
        import importlib, sys

        HEAVY = set(sys.argv[1].split(","))

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in HEAVY:
                    raise ImportError(f"{name} is not to be imported here")

        sys.meta_path.insert(0, Blocker())
        for module in sys.argv[2:]:
            importlib.import_module(module)
    """

    command = [sys.executable, "-c", textwrap.dedent(program), ",".join(HEAVY), *light_modules()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
