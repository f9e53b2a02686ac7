"""The recipe clinc150: sentences of people to an assistant, 150 intents; the domains of its use arrive one after another.

Decides the order: two thirds of five domains' sentences mixed, then each of the other five domains among a fifth of the old ones' rest.
The teacher is a sentence encoder with a linear head, an ONNX file; its tokens are made here, by its tokenizer. Data and teacher
can't be shipped and are read from EVERSTILL_DATA/clinc150.
"""

import gzip
import json
import random

import numpy as np
from tokenizers import Tokenizer

from everstill.recipes.recipe import Material, Order, Recipe, Row, outside_data

FILES = ("data_full.json.gz", "domains.json", "head.npz", "teacher_minilm_w8.onnx", "tokenizer.json")
SOURCE = (
    "CLINC150, github.com/clinc/oos-eval (CC BY 3.0), and the encoder all-MiniLM-L6-v2 (Apache-2.0) with a linear head fitted "
    "on its train split, as ONNX with inputs input_ids and attention_mask INT64 [-1,-1] and output logits"
)
SPLITS = ("train", "val", "test")
#: Domains that the stream begins with; the others come one by one.
FIRST_DOMAINS = 5
#: Share of a later phase that is sentences of the first domains.
OLD_SHARE = 0.25
MAX_TOKENS = 64


def gather(order: Order) -> Material:
    """Return the stream: every sentence of train, validation and test split once, or an evenly thinned part of it."""
    folder = outside_data("clinc150", FILES, SOURCE)
    splits = json.loads(gzip.decompress((folder / "data_full.json.gz").read_bytes()))
    domains: dict[str, list[str]] = json.loads((folder / "domains.json").read_text())
    labels = tuple(str(label) for label in np.load(folder / "head.npz")["labels"])
    sentences = [tuple(one) for split in SPLITS for one in splits[split]]
    texts, drifts = arrange(sentences, domains, order)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    order.on_progress(f"{len(texts):,} sentences, tokenizing")
    rows = [tokens(tokenizer, text) for text in texts]
    return Material(rows, drifts, str((folder / "teacher_minilm_w8.onnx").resolve()), labels)


def arrange(
    sentences: list[tuple[str, ...]], domains: dict[str, list[str]], order: Order
) -> tuple[list[str], tuple[int, ...]]:
    """Return the sentences in stream order, and the places at which a domain arrives.

    Args:
        sentences: (text, intent) each.
        domains: intents by domain; the first five are what the stream begins with.
    """
    rng = random.Random(order.seed)
    names = list(domains)
    domain_of = {intent: name for name, intents in domains.items() for intent in intents}
    by_domain: dict[str, list[str]] = {name: [] for name in names}
    for text, intent in sentences:
        by_domain[domain_of[intent]].append(text)
    for texts in by_domain.values():
        rng.shuffle(texts)
    old = [text for name in names[:FIRST_DOMAINS] for text in by_domain[name]]
    rng.shuffle(old)
    later = names[FIRST_DOMAINS:]
    wanted = min(order.num_requests, len(sentences))
    num_first = min(round(wanted * order.drift_share), len(old))
    phases = [old[:num_first]]
    num_old = num_first
    for number, name in enumerate(later):
        size = (wanted - num_first) * (number + 1) // len(later) - (wanted - num_first) * number // len(later)
        some_old = old[num_old : num_old + round(size * OLD_SHARE)]
        num_old += len(some_old)
        phase = some_old + by_domain[name][: size - len(some_old)]
        rng.shuffle(phase)
        phases.append(phase)
    starts = [sum(map(len, phases[:number])) for number in range(1, len(phases))]
    return [text for phase in phases for text in phase], tuple(starts)


def tokens(tokenizer: Tokenizer, text: str) -> Row:
    """Return what the teacher reads of a sentence: input_ids and attention_mask, INT64 [1, tokens]."""
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


RECIPE = Recipe(
    name="clinc150",
    summary="text: sentences to an assistant, 150 intents, domains that arrive one after another",
    num_requests=10_000,
    whole=22_500,
    requests_per_s=60.0,
    drift_share=1 / 3,
    requests_for_a_swap=1500,
    gathering="reading sentences to an assistant; five domains of its use first, then five more, one by one",
    rows_are="sentences",
    after_drift="sentences of a domain that was not there before began to come (and later of four more)",
    gather=gather,
    scoring_batch=32,
    waits=True,
)
