"""`python -m serving.app describe`: one line of JSON on what a teacher takes and gives, or one line on why there is none."""

import json
import pathlib
from typing import Any

import pytest

from protos import inference_pb2 as pb
from serving import app
from tests.support.graphs import classifier
from tests.support.teachers import FakeTeacher, serving


class Described(FakeTeacher):
    """A server that knows the metadata of one model."""

    def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        """Describe it."""
        assert request.name == "spam"
        response = pb.ModelMetadataResponse(name="spam")
        response.inputs.add(name="text", datatype="BYTES", shape=[-1, 1])
        response.outputs.add(name="scores", datatype="FP32", shape=[-1, 2])
        return response


def test_a_file_is_described(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(classifier(classlabels_strings=["ham", "spam"]))

    assert app.main(["describe", "--onnx", str(tmp_path / "model.onnx")]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert [one["name"] for one in found["outputs"]] == ["label", "scores"]
    assert (found["labels"], len(found["sha256"])) == (["ham", "spam"], 64)


def test_a_server_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Described()) as address:
        assert app.main(["describe", "--address", address, "--teacher-model", "spam"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert (found["outputs"][0]["name"], found["labels"], found["sha256"]) == ("scores", None, None)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--onnx", "nowhere.onnx"], 2, "nowhere.onnx is not a file"),
        (["--address", "127.0.0.1:1"], 4, "127.0.0.1:1"),
    ],
)
def test_what_can_not_be_described_is_told_in_one_line(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["describe", *arguments]) == code

    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert sentence in error
