"""Export: one file that says nothing of the machine it was made on, and answers like the torch student at any batch size."""

import re

import numpy as np
import onnx
import pytest
import torch

from distill_loop.learner.byte_window import ByteWindowNet
from distill_loop.release.export import Exporter
from distill_loop.release.precheck import Artifact
from tests.support.learning import MODEL, NUM_CLASSES, WINDOW, make_window, small_learner


def make_net(seed: int, **changes: float) -> ByteWindowNet:
    torch.manual_seed(seed)
    return ByteWindowNet(small_learner(**changes), NUM_CLASSES, WINDOW)


def make_rows(num_rows: int) -> np.ndarray:
    return np.concatenate([make_window(number % NUM_CLASSES, number) for number in range(num_rows)])


def torch_logits(net: ByteWindowNet, rows: np.ndarray) -> np.ndarray:
    net.eval()
    with torch.inference_mode():
        logits: np.ndarray = net(torch.from_numpy(rows)).numpy()
    return logits


@pytest.fixture(scope="module")
def exporter() -> Exporter:
    """Return an exporter that has traced the net once already, so that what follows reuses its graph."""
    exporter = Exporter(MODEL, text_bytes=256)
    exporter.export(make_net(0))
    return exporter


@pytest.fixture(scope="module")
def fresh() -> bytes:
    """Return a first export, traced."""
    return Exporter(MODEL, text_bytes=256).export(make_net(1))


def test_a_reused_graph_with_new_weights_is_a_fresh_export(exporter: Exporter, fresh: bytes) -> None:
    assert exporter.export(make_net(1)) == fresh


@pytest.mark.parametrize("num_rows", [1, 2, 16, 33])
def test_the_file_answers_like_the_torch_student_at_any_batch_size(exporter: Exporter, num_rows: int) -> None:
    net, rows = make_net(2), make_rows(num_rows)

    logits_BC = Artifact(exporter.export(net), MODEL.output, threads=1).logits({"bytes": rows})

    assert (logits_BC.shape, logits_BC.dtype) == ((num_rows, NUM_CLASSES), np.float32)
    np.testing.assert_allclose(logits_BC, torch_logits(net, rows), atol=1e-5)


def test_padding_alone_answers_like_the_torch_student(exporter: Exporter) -> None:
    net, rows = make_net(2), np.full((1, WINDOW), 256, np.int32)

    logits_BC = Artifact(exporter.export(net), MODEL.output, threads=1).logits({"bytes": rows})

    np.testing.assert_allclose(logits_BC, torch_logits(net, rows), atol=1e-5)


def test_each_export_carries_its_own_weights(exporter: Exporter) -> None:
    first_net, second_net, rows = make_net(3), make_net(4), make_rows(4)

    first, second = exporter.export(first_net), exporter.export(second_net)

    for data, net in ((first, first_net), (second, second_net)):
        logits_BC = Artifact(data, MODEL.output, threads=1).logits({"bytes": rows})
        np.testing.assert_allclose(logits_BC, torch_logits(net, rows), atol=1e-5)


def test_a_net_of_another_width_is_traced_anew(fresh: bytes) -> None:
    exporter = Exporter(MODEL, text_bytes=256)
    exporter.export(make_net(1))
    wider, rows = make_net(1, hidden=24), make_rows(3)

    logits_BC = Artifact(exporter.export(wider), MODEL.output, threads=1).logits({"bytes": rows})

    np.testing.assert_allclose(logits_BC, torch_logits(wider, rows), atol=1e-5)


def test_training_goes_on_after_an_export_as_if_there_was_none(exporter: Exporter) -> None:
    net = make_net(5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    exporter.export(net)

    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    net(torch.from_numpy(make_rows(2))).sum().backward()
    assert net.head.weight.grad is not None


def test_the_file_is_one_and_its_inputs_and_output_are_the_models(fresh: bytes) -> None:
    model = onnx.load_from_string(fresh)

    assert all(one.data_location == onnx.TensorProto.DEFAULT for one in model.graph.initializer)
    assert [one.name for one in model.graph.input] == ["bytes"]
    assert [one.name for one in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == WINDOW


def test_the_graph_has_no_loop_and_no_custom_operator(fresh: bytes) -> None:
    model = onnx.load_from_string(fresh)

    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Loop", "Scan", "If", "ScatterElements"})
    assert [one.domain for one in model.opset_import] == [""]


def test_no_part_of_the_graph_has_metadata_or_a_doc_string(fresh: bytes) -> None:
    model = onnx.load_from_string(fresh)
    graph = model.graph

    parts = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions]
    assert not any(part.doc_string or len(part.metadata_props) for part in parts)
    assert not len(graph.value_info)


def test_no_trace_of_the_machine_is_in_the_bytes(fresh: bytes) -> None:
    model = onnx.load_from_string(fresh)
    for one in model.graph.initializer:
        one.ClearField("raw_data")  # numbers may spell anything
    words = re.findall(rb"[\t\n -~]{4,}", model.SerializeToString())

    traces = ["/", "\\", ".py", "site-packages", "Traceback", "File ", "line ", "torch", "forward"]
    found = [(trace, word) for trace in traces for word in words if trace.encode() in word]

    assert found == []
    assert b"site-packages" not in fresh
