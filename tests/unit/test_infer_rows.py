"""Inputs of `everstill infer`: what a line, an array or an image becomes, and what is said where it doesn't fit."""

import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everstill.infer.rows import Options, Row, as_row, batches, image_layout, join, read
from protos.errors import FormatError, UnavailableError
from registry.sections import TensorSpec


def spec(datatype: str, *shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *shape))


def lines(given: str, *specs: TensorSpec, **options: Any) -> list[Row]:
    return list(read([], io.BytesIO(given.encode()), specs, Options(**options)))


def values(row: Row) -> dict[str, Any]:
    assert not row.error
    return {name: array.tolist() for name, array in row.inputs.items()}


@pytest.mark.parametrize("line", ["[1, 2]", '{"x": [1, 2]}', '{"input": [1, 2]}', "[[1, 2]]"])
def test_the_only_input_may_be_written_in_four_ways(line: str) -> None:
    (row,) = lines(line, spec("FP32", 2))

    assert values(row) == {"x": [[1.0, 2.0]]}
    assert row.inputs["x"].dtype == np.float32


def test_several_inputs_are_named_and_an_id_is_kept() -> None:
    (row,) = lines('{"a": [1], "b": "hi", "id": 7}', spec("INT64", 1, name="a"), spec("BYTES", name="b"))

    assert values(row) == {"a": [[1]], "b": [b"hi"]}
    assert row.request_id == "7"


def test_lines_are_numbered_as_in_the_file_and_a_bad_one_does_not_end_it() -> None:
    rows = lines("[1]\n\nnonsense\n[2]\n", spec("INT32", 1))

    assert [row.line for row in rows] == [1, 3, 4]
    assert [bool(row.error) for row in rows] == [False, True, False]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_text_line_fits_both_shapes_of_a_text_input(shape: tuple[int, ...]) -> None:
    (row,) = lines("what is my balance\n", spec("BYTES", *shape), text=True)
    (same,) = lines('"what is my balance"\n', spec("BYTES", *shape))

    assert row.inputs["x"].shape == same.inputs["x"].shape == (1, *shape)
    assert row.inputs["x"].item() == same.inputs["x"].item() == b"what is my balance"


def test_free_dimensions_take_any_length() -> None:
    assert as_row(spec("INT64", -1), [1, 2, 3]).shape == (1, 3)
    assert as_row(spec("INT64", -1), []).shape == (1, 0)


@pytest.mark.parametrize(
    ("one", "value", "sentence"),
    [
        (spec("FP32", 3), [1, 2], r"'x' has shape \[2\], the model takes \[3\] a row"),
        (spec("INT32", 1), [1.5], "is INT32 and has values of another kind"),
        (spec("INT8", 1), [300], "a value outside the range of INT8"),
        (spec("FP32", 1), ["a"], "is FP32 and has texts"),
        (spec("FP32", 1), [None], "is FP32 and has values of another kind"),
        (spec("FP32", 2), [[1], [1, 2]], "lists of different lengths"),
        (spec("BOOL", 1), [1], "is BOOL and has values of another kind"),
        (spec("BYTES"), 5, "takes texts"),
    ],
)
def test_a_value_that_does_not_fit_is_named(one: TensorSpec, value: Any, sentence: str) -> None:
    with pytest.raises(FormatError, match=sentence):
        as_row(one, value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"y": [1]}', r"unknown input 'y'\. The model takes a, b"),
        ('{"a": [1]}', "input 'b' is missing"),
        ("[1]", r"the model has several inputs\. Name them: a, b"),
        ("{", r"not JSON: .*--text"),
    ],
)
def test_a_line_that_does_not_fit_says_what_the_model_takes(line: str, sentence: str) -> None:
    (row,) = lines(line, spec("FP32", 1, name="a"), spec("FP32", 1, name="b"))

    with pytest.raises(FormatError, match=sentence):
        raise FormatError(row.error)


def test_text_for_a_model_of_numbers_is_refused() -> None:
    (row,) = lines("hello", spec("FP32", 3), text=True)

    assert "the model takes no text. It takes x FP32 [-1, 3]" in row.error


def test_an_npz_s_rows_are_its_first_dimension(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.arange(6.0).reshape(3, 2), b=np.array(["x", "y", "z"]))
    specs = (spec("FP32", 2, name="a"), spec("BYTES", name="b"))

    rows = list(read([str(tmp_path / "in.npz")], io.BytesIO(), specs, Options()))

    assert [row.line for row in rows] == [1, 2, 3]
    assert values(rows[2]) == {"a": [[4.0, 5.0]], "b": [b"z"]}


def test_an_npz_that_lacks_an_input_is_named(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.zeros((1, 2)), c=np.zeros((1, 2)))

    with pytest.raises(FormatError, match=r"has no array 'b'\. It has a, c"):
        list(
            read(
                [str(tmp_path / "in.npz")],
                io.BytesIO(),
                (spec("FP32", 2, name="a"), spec("FP32", 2, name="b")),
                Options(),
            )
        )


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((8, 6), (8, 6, 1, False)),
        ((8, 6, 3), (8, 6, 3, False)),
        ((3, 8, 6), (8, 6, 3, True)),
        ((1, 8, 6), (8, 6, 1, True)),
    ],
)
def test_an_image_fits_every_layout(shape: tuple[int, ...], layout: tuple[Any, ...], tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (6, 8), (255, 0, 0)).save(tmp_path / "red.png")

    (row,) = read([str(tmp_path / "red.png")], io.BytesIO(), (spec("UINT8", *shape),), Options())

    assert image_layout((spec("UINT8", *shape),)) == layout
    assert row.inputs["x"].shape == (1, *shape)


def test_an_image_of_another_size_is_resized_only_where_asked(tmp_path: pathlib.Path) -> None:
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    name, specs = str(tmp_path / "white.png"), (spec("FP32", 8, 8),)

    (refused,) = read([name], io.BytesIO(), specs, Options())
    (row,) = read([name], io.BytesIO(), specs, Options(resize=True, scale=1 / 255))

    assert "the image is 16 x 16, the model takes 8 x 8. Give --resize" in refused.error
    assert row.inputs["x"].tolist() == np.ones((1, 8, 8)).tolist()


@pytest.mark.parametrize(
    ("datatype", "scale", "fits"),
    [("UINT8", 2.0, False), ("INT8", 1.0, False), ("INT8", 0.5, True), ("INT16", 2.0, True)],
)
def test_pixels_that_the_datatype_cannot_hold_are_refused(
    datatype: str, scale: float, fits: bool, tmp_path: pathlib.Path
) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")

    (row,) = read([str(tmp_path / "grey.png")], io.BytesIO(), (spec(datatype, 8, 8),), Options(scale=scale))

    if fits:
        assert row.inputs["x"].tolist() == np.full((1, 8, 8), 200 * scale).tolist()
    else:
        assert f"'x' has a value outside the range of {datatype}. Give another --scale" in row.error


def test_what_is_no_image_and_a_model_without_images_are_lines(tmp_path: pathlib.Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"not a png")
    name = str(tmp_path / "torn.png")

    (torn,) = read([name], io.BytesIO(), (spec("UINT8", 8, 8),), Options())
    (text,) = read([name], io.BytesIO(), (spec("BYTES"),), Options())

    assert torn.error == "not an image that pillow knows"
    assert text.error.startswith("the model takes no image, but x BYTES")


def test_a_file_that_is_away_or_unknown_ends_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")

    with pytest.raises(UnavailableError, match="cannot read"):
        list(read([str(tmp_path / "gone.jsonl")], io.BytesIO(), (spec("FP32", 1),), Options()))
    with pytest.raises(FormatError, match="of no known kind"):
        list(read([str(tmp_path / "a.parquet")], io.BytesIO(), (spec("FP32", 1),), Options()))


def test_batches_join_neighbours_of_one_shape_and_leave_errors_alone() -> None:
    rows = lines("\n".join(json.dumps(one) for one in ([1], [2], [3], [1, 2], "bad", [4])), spec("INT32", -1))

    grouped = list(batches(rows, 2))

    assert [[row.line for row in batch] for batch in grouped] == [[1, 2], [3], [4], [5], [6]]
    assert join(grouped[0])["x"].tolist() == [[1], [2]]
