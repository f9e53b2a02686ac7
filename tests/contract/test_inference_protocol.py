"""The Open Inference Protocol as others have it: same messages, same field numbers, and no clash with their copy."""

import pathlib
import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import service_pb2 as triton_pb2

from protos import inference_pb2

ROOT = pathlib.Path(__file__).parents[2]
SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def fields(message: Descriptor) -> dict[str, tuple[int, int, bool]]:
    return {field.name: (field.number, field.type, field.is_repeated) for field in message.fields}


def assert_same(ours: Descriptor, theirs: Descriptor) -> None:
    missing = set(fields(ours).items()) - set(fields(theirs).items())
    assert not missing, ours.full_name
    for name, nested in ours.nested_types_by_name.items():
        if not nested.GetOptions().map_entry:
            assert_same(nested, theirs.nested_types_by_name[name])


@pytest.mark.parametrize("name", sorted(inference_pb2.DESCRIPTOR.message_types_by_name))
def test_a_message_has_the_fields_of_tritons(name: str) -> None:
    ours = inference_pb2.DESCRIPTOR.message_types_by_name[name]

    assert_same(ours, triton_pb2.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}"))


@pytest.mark.parametrize("call", [method.name for method in SERVICE.methods])
def test_a_call_has_the_name_and_messages_of_tritons(call: str) -> None:
    theirs = triton_pb2.DESCRIPTOR.pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name[call]

    assert SERVICE.full_name == theirs.containing_service.full_name
    assert SERVICE.methods_by_name[call].input_type.full_name == theirs.input_type.full_name
    assert SERVICE.methods_by_name[call].output_type.full_name == theirs.output_type.full_name


def test_both_copies_live_in_one_process() -> None:
    ours, theirs = inference_pb2.ModelInferRequest(), triton_pb2.ModelInferRequest()

    assert ours.DESCRIPTOR.file.pool is not theirs.DESCRIPTOR.file.pool
    theirs.model_name, theirs.raw_input_contents[:] = "m", [b"raw"]
    ours.ParseFromString(theirs.SerializeToString())
    assert (ours.model_name, list(ours.raw_input_contents)) == ("m", [b"raw"])


def test_generated_code_is_what_its_source_gives() -> None:
    command = [sys.executable, "-m", "protos.generate", "--check"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
