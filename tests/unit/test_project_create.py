"""`everstill init`: a folder that loads, nothing overwritten, nothing left where something doesn't fit."""

import contextlib
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from everstill import rooms
from everstill.config import EverstillSettings
from everstill.project import create as project
from everstill.project.create import Wish, create, render_report
from everstill.project.files import Plan, render
from everstill.project.fit import Fit
from protos.errors import ConfigurationError, ConflictError, UnavailableError
from protos.tensors import BYTES
from registry.config import load
from registry.sections import TensorSpec
from tests.support.teachers import FakeTeacher, serving

LABELS = ("it's", 'a "b"', "ü")
X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
LOGITS = {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}


class FakeRooms:
    """Answers what rooms are asked, and notes the questions."""

    def __init__(self, **description: Any) -> None:
        self.description = {"inputs": [X], "outputs": [LOGITS], "labels": list(LABELS), "sha256": "0", **description}
        self.asked: list[tuple[str, ...]] = []
        self.refusal: BaseException | None = None

    def __call__(self, module: str, *arguments: str) -> dict[str, Any]:
        self.asked.append((module, *arguments))
        if "describe" in arguments:
            return self.description
        if self.refusal:
            raise self.refusal
        return {"student": "tabular", "chosen": "auto", "parameters": 1234, "latency_ms": 0.2}


@pytest.fixture
def fake_rooms(monkeypatch: pytest.MonkeyPatch) -> FakeRooms:
    fake = FakeRooms()
    monkeypatch.setattr(rooms, "ask", fake)
    return fake


@pytest.fixture
def onnx(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that stands for a teacher; what it answers needs no process."""

    @contextlib.contextmanager
    def asking(path: str) -> Any:
        def ask(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"logits": np.array([[3.0, -1.0, 0.5]] * 4, np.float32)}

        yield ask

    monkeypatch.setattr(project, "_asking_file", asking)
    path = tmp_path / "teacher.onnx"
    path.write_bytes(b"")
    return str(path)


def test_the_folder_loads_and_holds_what_the_teacher_says(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str
) -> None:
    report = create(Wish(tmp_path / "my service", teacher=onnx))

    settings = load(tmp_path / "my service/everstill.toml", EverstillSettings)
    assert settings.model.name == report["model"] == "my-service"
    assert settings.model.labels == LABELS
    assert (settings.model.num_classes, settings.teacher.output, settings.teacher.kind) == (3, "logits", "logits")
    assert settings.gateway.pass_through
    assert report["files"] == [".gitignore", "README.md", "everstill.toml"]
    assert "Next: cd " in render_report(report)


def test_a_teacher_s_file_is_named_relative_to_the_configuration(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str
) -> None:
    create(Wish(tmp_path / "service", teacher=onnx))

    written = tomllib.loads((tmp_path / "service/everstill.toml").read_text())
    assert written["teacher_server"] == {"onnx": "../teacher.onnx"}


def test_a_student_of_one_s_own_is_written_once_and_is_short(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str
) -> None:
    create(Wish(tmp_path / "service", teacher=onnx, student="student:build"))

    text = (tmp_path / "service/student.py").read_text()
    compile(text, "student.py", "exec")
    assert "def build(" in text
    assert len(text.splitlines()) <= 25
    assert ("distill_loop.app", "--check", "--config", str(tmp_path / "service/everstill.toml")) in fake_rooms.asked


def test_a_student_named_as_a_class_is_one(tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str) -> None:
    create(Wish(tmp_path / "service", teacher=onnx, student="student:Net"))

    text = (tmp_path / "service/student.py").read_text()
    assert "class Net(nn.Module):" in text
    assert "\ndef " not in text


def test_a_student_that_is_there_stays_as_it_is(tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str) -> None:
    (tmp_path / "student.py").write_text("mine")

    create(Wish(tmp_path, teacher=onnx, student="student:build", name="mine"))

    assert (tmp_path / "student.py").read_text() == "mine"


def test_nothing_is_overwritten(tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str) -> None:
    (tmp_path / "README.md").write_text("mine")

    with pytest.raises(ConflictError, match=r"README\.md is there already"):
        create(Wish(tmp_path, teacher=onnx))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "teacher.onnx"]


def test_a_student_that_cannot_be_built_leaves_nothing(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str
) -> None:
    fake_rooms.refusal = ConfigurationError("no built-in student reads the inputs")

    with pytest.raises(ConfigurationError, match="no built-in student reads"):
        create(Wish(tmp_path / "service", teacher=onnx))
    assert not (tmp_path / "service").exists()


def test_ctrl_c_during_the_check_leaves_nothing(tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str) -> None:
    fake_rooms.refusal = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        create(Wish(tmp_path / "service", teacher=onnx))
    assert not (tmp_path / "service").exists()

    fake_rooms.refusal = None
    assert create(Wish(tmp_path / "service", teacher=onnx))["student"]["chosen"] == "auto"


def test_a_file_that_cannot_be_written_takes_the_others_with_it_and_no_one_else_s(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        project, "_refuse_to_overwrite", lambda folder, module: None
    )  # somebody was quicker than the check
    (tmp_path / "README.md").write_text("mine")

    with pytest.raises(UnavailableError, match=r"cannot write .*README\.md"):
        create(Wish(tmp_path, teacher=onnx, name="m"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "teacher.onnx"]


def test_an_onnx_file_as_student_is_the_first_version(tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str) -> None:
    create(Wish(tmp_path / "service", teacher=onnx, student=onnx))

    settings = tomllib.loads((tmp_path / "service/everstill.toml").read_text())
    assert settings["release"]["first_version"] == "../teacher.onnx"
    assert settings["learner"]["student"] == "auto"


def test_an_onnx_student_with_other_inputs_is_refused(
    tmp_path: pathlib.Path, fake_rooms: FakeRooms, onnx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(module: str, *arguments: str) -> dict[str, Any]:
        other = {"inputs": [{**X, "name": "z"}]} if arguments[-1] != onnx else {}
        return {**fake_rooms.description, **other}

    monkeypatch.setattr(rooms, "ask", ask)
    student = tmp_path / "student.onnx"
    student.write_bytes(b"")

    with pytest.raises(ConfigurationError, match=r"takes z FP32 \[-1, 4\], the teacher"):
        create(Wish(tmp_path / "service", teacher=onnx, student=str(student)))


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"teacher": "nowhere.onnx"}, "neither a file nor host:port"),
        ({"student": "transformer"}, r"'transformer' is not a student.*module:function"),
        ({"student": "gone.onnx"}, "gone.onnx, which is not a file"),
    ],
)
def test_what_was_mistyped_is_said(wish: dict[str, Any], sentence: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        create(Wish(tmp_path / "service", **wish))
    assert not (tmp_path / "service").exists()


def test_a_teacher_that_runs_is_named_by_address_and_asked(tmp_path: pathlib.Path, fake_rooms: FakeRooms) -> None:
    fake_rooms.description["inputs"] = [{"name": "bytes", "datatype": "INT32", "shape": [-1, 4]}]
    fake_rooms.description["outputs"] = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    with serving(FakeTeacher()) as address:
        report = create(Wish(tmp_path / "service", teacher=address, teacher_model="big"))

    written = tomllib.loads((tmp_path / "service/everstill.toml").read_text())
    assert (written["teacher"]["address"], written["teacher"]["model"]) == (address, "big")
    assert report["teacher"]["kind_told_by"] == "its rows sum to 1"


@pytest.mark.parametrize(
    "inputs",
    [
        (("text", BYTES, (-1,)),),
        (("text", BYTES, (-1, 1)),),
        (("ids", "INT64", (-1, -1)), ("mask", "INT64", (-1, -1))),
        (("image", "UINT8", (-1, 8, 8, 3)),),
        (("a", "FP32", (-1, 3)), ("b", "INT32", (-1, 2)), ("c", "FP32", (-1, -1))),
    ],
)
def test_what_is_written_for_any_inputs_is_python_and_toml(inputs: tuple[Any, ...]) -> None:
    specs = tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs)
    found = Fit(specs, "y", "logits", "you say so", 200, tuple(f"label {number}" for number in range(200)))

    files = render(Plan("m", "host:1", True, "big", found, student="mine:make"), with_student=True)

    uncommented = files["everstill.toml"].replace("# [stream.kafka]", "[stream.kafka]").replace("# boot", "boot")
    for text in (files["everstill.toml"], uncommented):
        settings = EverstillSettings.model_validate(tomllib.loads(text))
    assert settings.stream.kafka.bootstrap == "127.0.0.1:9092"
    compile(files["mine.py"], "mine.py", "exec")
    call = files["README.md"].split("```python\n")[1].split("```")[0]
    compile(call, "README.md", "exec")
