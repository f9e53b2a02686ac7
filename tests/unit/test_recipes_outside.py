"""The recipes whose data can't be shipped: the order of the stream, and that their teachers read its rows."""

import pathlib
import random

import numpy as np
import onnxruntime
import pytest

from everstill.recipes import clinc150, nsl_kdd
from everstill.recipes.recipe import Material, Order


def needs(name: str, shared_data: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let EVERSTILL_DATA be the shared folder, or skip."""
    if not (shared_data / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    monkeypatch.setenv("EVERSTILL_DATA", str(shared_data))


@pytest.fixture
def sentences(shared_data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Material:
    needs("clinc150", shared_data, monkeypatch)
    return clinc150.gather(Order(1500, 1 / 3, 0, tmp_path))


@pytest.fixture
def connections(shared_data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Material:
    needs("nsl_kdd", shared_data, monkeypatch)
    return nsl_kdd.gather(Order(1000, 0.5, 0, tmp_path))


def made_up(
    num_domains: int = 10, intents: int = 2, each: int = 30
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    domains = {f"d{place}": [f"d{place}i{number}" for number in range(intents)] for place in range(num_domains)}
    sentences = [
        (f"{intent} {number}", intent) for intents in domains.values() for intent in intents for number in range(each)
    ]
    random.Random(0).shuffle(sentences)
    return sentences, domains


def domains_of(texts: list[str]) -> list[int]:
    return [int(text[1 : text.index("i")]) for text in texts]


def test_the_whole_stream_holds_each_sentence_once_and_a_domain_arrives_at_each_drift(tmp_path: pathlib.Path) -> None:
    sentences, domains = made_up()

    texts, drifts = clinc150.arrange(sentences, domains, Order(600, 1 / 3, 1, tmp_path))

    assert sorted(texts) == sorted(text for text, _ in sentences)
    assert drifts == (200, 280, 360, 440, 520)
    arrived = domains_of(texts)
    assert set(arrived[:200]) == {0, 1, 2, 3, 4}
    for number, start in enumerate(drifts):
        phase = arrived[start : start + 80]
        assert phase.count(5 + number) == 60
        assert set(phase) <= {0, 1, 2, 3, 4, 5 + number}


def test_a_shorter_stream_has_the_same_phases(tmp_path: pathlib.Path) -> None:
    sentences, domains = made_up()

    texts, drifts = clinc150.arrange(sentences, domains, Order(150, 1 / 3, 1, tmp_path))

    assert len(texts) == len(set(texts)) == 150
    assert drifts == (50, 70, 90, 110, 130)
    assert domains_of(texts[130:]).count(9) == 15


def test_sentences_become_what_the_teacher_reads(sentences: Material) -> None:
    row = sentences.rows[7]

    assert sentences.drifts == (500, 700, 900, 1100, 1300)
    assert {name: array.dtype for name, array in row.items()} == {"input_ids": np.int64, "attention_mask": np.int64}
    assert row["input_ids"].shape == row["attention_mask"].shape == (1, row["input_ids"].size)
    assert len({one["input_ids"].size for one in sentences.rows}) > 5
    (logits,) = onnxruntime.InferenceSession(sentences.teacher).run(["logits"], dict(row))
    assert logits.shape == (1, len(sentences.labels)) == (1, 150)


def test_connections_keep_the_data_s_order_and_the_teacher_reads_them(connections: Material) -> None:
    rows = np.concatenate([row["features"] for row in connections.rows])

    (probabilities_BC,) = onnxruntime.InferenceSession(connections.teacher).run(["probabilities"], {"features": rows})

    assert (rows.shape, rows.dtype, connections.drifts) == ((1000, 41), np.float32, (500,))
    assert np.isfinite(rows).all()
    assert probabilities_BC.shape == (1000, len(connections.labels))
    # Attack groups that are rare before the drift are common after it.
    remote = [(probabilities_BC[part].argmax(axis=1) == 3).mean() for part in (slice(0, 500), slice(500, 1000))]
    assert remote[1] > 2 * remote[0]


@pytest.mark.slow
def test_the_whole_streams_are_as_long_as_it_is_said(
    shared_data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    needs("clinc150", shared_data, monkeypatch)
    needs("nsl_kdd", shared_data, monkeypatch)

    for recipe, length, drifts in (
        (clinc150.RECIPE, 22_500, (7500, 10_500, 13_500, 16_500, 19_500)),
        (nsl_kdd.RECIPE, 28_587, (15_003,)),
    ):
        material = recipe.gather(Order(recipe.whole, recipe.drift_share, 0, tmp_path))

        assert (len(material.rows), material.drifts) == (length, drifts)
