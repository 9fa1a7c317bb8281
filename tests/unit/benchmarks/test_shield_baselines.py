"""Figures of the rules' benchmark: what is compared with what, and that an arm that differs in a bit has no row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from benchmarks import _harness
from benchmarks._shield_arms import Arm, fewest, public_twin, sensitivities, struck
from benchmarks.shield_baselines import interval, main, revealed, rounds, row, table, wall
from tests.unit.shielding.planner.test_plan import FAST_WORKER
from torch import nn

from holdfast.errors import IntegrityError
from holdfast.shielding import integer_layers
from holdfast.shielding.graph import export
from holdfast.shielding.planner import plan, public_nodes, workload
from holdfast.shielding.planner.chain import stages

NET = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MODEL = export(NET, X, X)


def arm(name: str, rule: str = "whole") -> Arm:
    return Arm(name, "somebody", plan(MODEL, rule, machine=FAST_WORKER), MODEL)


def test_speed_ups_compare_an_arm_with_the_whole_model_and_with_no_shield() -> None:
    found = {
        "whole": [(2.0, 2.0, 0.0)] * 5,
        "no shield": [(1.0, 0.25, 0.75)] * 5,
        "mine": [(4.0, 1.0, 3.0)] * 5,
    }
    got = row(arm("mine", "slalom"), found)
    assert got["wall ms"] == [4000.0, 4000.0, 4000.0]
    assert got["speed-up over whole"] == [0.5, 0.5, 0.5]
    assert got["speed-up over no shield, CPU"] == [0.25, 0.25, 0.25]
    assert (got["CPU ms trusted"], got["CPU ms worker"]) == (1000.0, 3000.0)
    assert got["most"] == 2.0  # a worker that costs nothing leaves 1 of 2 seconds
    assert got["even"] == 3.0  # slowed 3 times, the whole takes 6 s, and the arm 3 s and the worker's 3 s
    assert got["believed"] == 0.0
    json.dumps(got)


def test_an_interval_holds_the_figure_and_pairs_rounds() -> None:
    ours = [(float(k), 0.0, 0.0) for k in (1, 2, 3, 4, 50)]
    value, low, high = interval(ours, ours, lambda a, b: wall(a) / wall(b))
    assert (value, low, high) == (1.0, 1.0, 1.0)  # the same rounds on both sides
    value, low, high = interval(ours, ours, lambda a, _: wall(a))
    assert low <= value == 3.0 <= high


def test_what_a_rule_reveals_is_said() -> None:
    assert revealed(plan(MODEL, "none", machine=FAST_WORKER))["believed"] == 1.0
    blinded = revealed(plan(MODEL, "slalom", machine=FAST_WORKER))
    assert blinded["MACs"]["blinded"] == 1.0
    assert blinded["worker sees"][0]["input"] == "uniform residues"
    assert revealed(plan(MODEL, "whole", machine=FAST_WORKER))["worker sees"] == []


def test_an_arm_that_differs_in_one_bit_ends_the_benchmark() -> None:
    wanted = MODEL(X)
    wrong = wanted.clone()
    wrong.view(torch.int32)[0, 0] ^= 1
    liar = dataclasses.replace(arm("liar"), call=lambda _: wrong)
    with pytest.raises(IntegrityError, match="arm liar"):
        rounds([arm("whole"), liar], X, wanted, 1)
    assert [len(turns) for turns in rounds([arm("whole"), arm("no shield")], X, wanted, 3).values()] == [3, 3]


def test_the_public_twin_shares_all_but_the_head_and_light_layers() -> None:
    shared = public_nodes(MODEL, public_twin(MODEL))
    assert "3" not in shared
    assert shared | {"3"} <= set(integer_layers(MODEL))


def test_ends_hold_their_share_of_the_work() -> None:
    chain = [sum(node.macs for node in part) for part in stages(workload(MODEL))]
    assert fewest(MODEL, last=False) == 1
    assert fewest(MODEL, last=True) == (1 if chain[-1] >= 0.2 * sum(chain) else 2)


def test_faults_move_the_output_and_never_beyond_its_length() -> None:
    found = sensitivities(MODEL, X)
    assert found.keys() == {"0", "3"}
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert any(found.values())
    y = torch.zeros(10, 10)
    assert int((struck(y, torch.Generator().manual_seed(0)).view(torch.int32) != 0).sum()) in (1, 2)
    assert not y.any()


def test_stored_results_print_as_a_table(tmp_path: Path) -> None:
    found = {name: [(2.0, 1.0, 1.0)] * 3 for name in ("whole", "no shield", "mine")}
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"network": "net", "n": 3, "rules": [row(arm("mine"), found)]}))
    head, *rest = table(file)
    assert "net, medians of 3" in head
    assert rest[0].count("|") == rest[1].count("|") == rest[2].count("|")
    assert rest[2].startswith("| mine (somebody) | 2000 |")


def test_the_command_reads_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[object, ...]] = []
    result = _harness.summarise("a claim", [(1.0, 2.0)] * 3, peer_name="peer")

    def claimed(*arguments: object) -> tuple[object, list[object], object]:
        asked.append(arguments)
        return result, [], FAST_WORKER

    monkeypatch.setattr("benchmarks.shield_baselines.claim", claimed)
    words = ["shield_baselines", "--network", "resnet18", "--rounds", "3", "--device", "cuda", "--json"]
    monkeypatch.setattr("sys.argv", words)
    main()
    assert asked == [("resnet18", 3, "cuda")]
    assert json.loads(capsys.readouterr().out)["network"] == "resnet18"
