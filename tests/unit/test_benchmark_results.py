"""The shape of a benchmark's result, its exit code, and that wrong answers would be seen."""

import json
import math
import pathlib

import numpy as np
import pytest

from benchmarks import flood, harness, stream
from benchmarks.harness import Check, Options, Result
from benchmarks.load import RECORD, Records, latencies_ms
from benchmarks.versions import went_back, wrong_answers


def run(check: Check, *arguments: str) -> int:
    def measure(options: Options) -> Result:
        return Result({"quick": options.quick, "drawn_from": options.seed}, [check])

    return harness.main("example", "An example.", measure, list(arguments))


def test_the_last_line_is_one_json_object_with_everything_that_a_figure_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = run(Check("speed", 0.97, ">=", 0.95), "--json", "--quick", "--seed", "7")

    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    assert {"machine", "commit", "command", "seed", "figures", "checks"} <= shown.keys()
    assert shown["command"] == "python -m benchmarks.example --json --quick --seed 7"
    assert shown["figures"] == {"quick": True, "drawn_from": 7}
    assert shown["checks"] == [{"name": "speed", "value": 0.97, "goal": ">= 0.95", "holds": True}]


def test_a_promise_that_does_not_hold_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Check("failed_requests", 1, "==", 0)) == 1
    assert "DOES NOT HOLD" in capsys.readouterr().out


@pytest.mark.parametrize("comparison", ["==", ">=", "<="])
def test_a_value_that_could_not_be_measured_keeps_no_promise(comparison: str) -> None:
    assert not Check("ratio", math.nan, comparison, 0.95).holds


def test_the_result_is_written_to_a_file_too(tmp_path: pathlib.Path) -> None:
    run(Check("speed", 1, ">=", 1), "--out", str(tmp_path / "result.json"))

    assert json.loads((tmp_path / "result.json").read_text())["checks"][0]["holds"]


def test_the_machine_is_described_but_not_named() -> None:
    assert set(harness.machine()) == {"system", "architecture", "cpu", "cores", "memory", "python"}


def records(*calls: tuple[int, str, str, int, float]) -> Records:
    made: Records = np.zeros(len(calls), RECORD)
    for place, call in enumerate(calls):
        for name, value in zip(("input", "code", "version", "top", "first_logit"), call, strict=True):
            made[name][place] = value
    return made


EXPECTED = {"a": np.array([[0.0, 1.0], [3.0, 2.0]]), "b": np.array([[5.0, 1.0], [0.0, 2.0]])}


def test_right_answers_are_told_from_those_of_the_other_version_and_from_the_other_rows() -> None:
    answered = records(
        (0, "OK", "a", 1, 0.0),
        (1, "OK", "b", 1, 0.0),
        (0, "OK", "a", 0, 5.0),  # b's answer under a's name
        (1, "OK", "a", 1, 0.0),  # the answer to row 0
        (0, "OK", "a", 1, 0.5),  # logits of no version
        (0, "OK", "c", 1, 0.0),  # nobody's name
    )

    assert wrong_answers(answered, EXPECTED).tolist() == [False, False, True, True, True, True]


def test_failed_calls_have_no_latency() -> None:
    calls = records((0, "OK", "a", 1, 0.0), (0, "UNAVAILABLE", "", -1, 0.0))
    calls["latency_s"] = [0.002, 9.0]

    assert latencies_ms(calls) == {"p50": 2.0, "p99": 2.0, "p999": 2.0, "max": 2.0}


def series(*calls: tuple[int, float, float, str]) -> Records:
    """Return answered calls: channel, when it was made, when it was answered, version."""
    made: Records = np.zeros(len(calls), RECORD)
    made["code"] = "OK"
    for place, (channel, start_s, end_s, version) in enumerate(calls):
        made["channel"][place], made["start_s"][place], made["latency_s"][place] = channel, start_s, end_s - start_s
        made["version"][place] = version
    return made


ORDER = {"a": 0, "b": 1}


def test_an_older_version_after_a_newer_one_was_answered_on_the_channel_went_back() -> None:
    assert went_back(series((0, 0.0, 1.0, "b"), (0, 2.0, 3.0, "a")), ORDER) == 1


def test_an_older_version_on_another_channel_or_asked_for_before_did_not_go_back() -> None:
    assert went_back(series((0, 0.0, 1.0, "b"), (1, 2.0, 3.0, "a")), ORDER) == 0
    assert went_back(series((0, 0.0, 1.0, "b"), (0, 0.5, 3.0, "a")), ORDER) == 0
    assert went_back(series((0, 0.0, 1.0, "a"), (0, 2.0, 3.0, "b")), ORDER) == 0


def test_the_streams_ratios_tell_like_from_unlike() -> None:
    pace = {stream.KAFKA: 600.0, stream.KAFKA_PLAIN: 300.0, stream.BARE: 100.0, stream.BARE_FAST: 200.0}
    rounds = {way: [{"pairs_per_s": per_s}] for way, per_s in {**pace, stream.BARE_TUNED: 400.0}.items()}

    figures, (check,) = stream.judged(rounds, 1000)

    assert {name: figures[name]["median"] for name in stream.RATIOS} == {
        "ratio_to_bare": 6.0,
        "ratio_both_with_crc32c": 3.0,
        "ratio_both_without_crc32c": 3.0,
        "ratio_to_bare_with_crc32c_tuned": 1.5,
    }
    assert (check.name, check.holds) == ("ratio_to_bare", True)


def test_a_flood_is_judged_by_its_rate_the_delay_beside_it_and_whether_it_was_one() -> None:
    rounds = [{"ratio": ratio, "good_per_s": 1.0} for ratio in (0.9, 1.1, 1.2)]
    calm, beside = ({"delay_p99_ms": delay, "sent_per_s": sent} for delay, sent in ((10.0, 200.0), (3000.0, 4680.0)))

    figures, checks = flood.judged("flood_kafka", rounds, calm, beside)

    assert figures["flood_kafka_ratio"]["median"] == 1.1
    assert [(check.name, check.value, check.holds) for check in checks] == [
        ("flood_kafka_ratio", 1.1, True),
        ("flood_kafka_delay_p99_ms", 3000.0, False),
        ("flood_kafka_sent_part", 0.9, False),
    ]


def test_readme_says_of_faults_what_the_committed_results_say() -> None:
    cases = {
        path.stem: json.loads(path.read_text()) for path in (harness.ROOT / "benchmarks/results/chaos").glob("*.json")
    }
    outage = cases.pop("broker_dead")
    requests = sum(case["figures"]["requests"] for case in cases.values())
    ratios = [
        check["value"]
        for case in cases.values()
        for check in case["checks"]
        if check["name"] == "p99_ratio_during_the_fault"
    ]
    shown = (harness.ROOT / "README.md").read_text()

    assert not [
        name for name, case in cases.items() if case["quick"] or not all(one["holds"] for one in case["checks"])
    ]
    assert f"0 failed of {requests:,} requests; every sampled row accounted for" in shown
    assert f"{min(ratios):.2f} to {max(ratios):.2f} of the steady p99".lstrip("0") in shown
    assert f"0 failed of {outage['figures']['requests']:,} requests" in shown
