"""No module grows past two concepts, no function past a screen. Generated code is excepted."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("protos", "registry", "serving", "distill_loop", "everstill", "benchmarks", "scripts", "tests")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70


def modules() -> list[pathlib.Path]:
    paths = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return [path for path in paths if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_and_its_functions_are_short(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES

    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    too_long = {
        node.name: size for node in functions if (size := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not too_long


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert not text.strip() or ast.get_docstring(ast.parse(text))
