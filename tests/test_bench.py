"""The benchmark runner: its arithmetic, and that it runs without any peer."""

import json
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from book.bench.peers import OURS, Case, load
from book.bench.report import behind, header, line, ratio
from book.bench.run import ROUNDS, SAMPLE, bench, draw, measure, previous, wanted

ROW = {"operator": "soft_rank", "regularization": "l2", "epsilon": 1.0, "batch": 128, "n": 100}
RESULTS = Path(__file__).parents[1] / "book" / "results"


def row(ours, peer, mode="value"):
    ms = {OURS: [ours] * 3, "peer": [peer] * 3}
    return ROW | {"dtype": "float64", "mode": mode, "ms": ms, "difference": {"peer": 1.0}}


def test_ratio_and_target():
    assert ratio(row(2.0, 3.0)) == 1.5
    assert not behind(row(2.0, 3.0)) and behind(row(2.0, 1.0))
    assert behind(row(2.0, 3.0, "value+gradient")) and not behind(row(2.0, 4.0, "value+gradient"))


def test_line_has_the_columns_of_the_header_and_marks_a_difference():
    text = line(row(2.0, 3.0), (OURS, "peer", "absent"))
    assert text.index("soft_rank") == header((OURS, "peer", "absent")).index("operator")
    assert "3*" in text and "1.50" in text


def test_calls_are_timed_in_turns():
    turns = []

    def call(name):
        turns.append(name)
        time.sleep(2 * SAMPLE)  # a call as long as a sample is not repeated within it

    quartiles = measure({name: lambda name=name: call(name) for name in "ab"}, 0.0)
    assert turns[:4] == list("aabb") and turns[4:] == list("ab") * ROUNDS[0]
    assert all(2e3 * SAMPLE <= low <= mid <= high for low, mid, high in quartiles.values())


def test_only_and_sizes_select_rows():
    args = Namespace(sizes=["2x3"], quick=True, only=["soft_rank", "kl", "value", "float32"])
    assert wanted(args) == [(Case("soft_rank", "kl", 1.0), 2, 3, "float32", "value")]


def test_a_run_elsewhere_is_not_continued(tmp_path):
    output = tmp_path / "rows.json"
    output.write_text(json.dumps({"about": {"cpu": "a", "date": "x"}, "rows": [1]}))
    assert previous(output, {"cpu": "a", "date": "y"}, resume=True) == [1]
    with pytest.raises(SystemExit, match="elsewhere"):
        previous(output, {"cpu": "b", "date": "x"}, resume=True)


@pytest.mark.parametrize("mode", ["value", "value+gradient"])
def test_runs_with_this_library_alone(mode):
    adapters = {OURS: load()[0][OURS]}
    found = bench(
        Case("soft_rank", "l2", 1.0), 2, 5, "float32", mode, adapters, 0.0, time.perf_counter
    )
    assert found["difference"][OURS] < 1e-6


def test_inputs_are_the_same_every_time():
    first, second = (draw("soft_rank", 2, 3, "float32") for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_recorded_findings_say_what_the_chapter_says():
    record = json.loads((RESULTS / "peer_findings.json").read_text())
    worst = record["entropic_sort_gradient"]["strengths"][-1]
    recorded, truth = np.array(worst["jacobian"]), np.array(worst["central_differences"])
    assert abs(recorded - truth).max() > 0.3 and worst["max_error_with_the_input_set"] < 1e-8
    ranks = record["float32_entropic_ranks"]
    hard = np.argsort(np.argsort(ranks["values"])) + 1
    np.testing.assert_array_equal(ranks["hard_ranks"], hard)
    assert all(abs(rows[-1] - hard).max() > 5e-4 for rows in map(np.array, ranks["ranks"].values()))
    near = record["block_tolerance"]
    assert near["epsilon"] < np.diff(near["values"]).item() < near["epsilon"] + 1e-9
    merged = near["gradient_of_first_rank"]
    assert merged["fast_soft_sort"] == merged["torchsort"] == [0.5, -0.5]
    assert merged["softjax"] == [0.0, 0.0]
