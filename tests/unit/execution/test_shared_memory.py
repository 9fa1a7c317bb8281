"""Forked workers and weights in shared memory: a fault of one process would be a fault of all, so they are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import InvalidConfig
from holdfast.execution import robust_error
from holdfast.execution.campaign import campaign
from holdfast.execution.executors import sharing
from holdfast.execution.executors.sharing import require_own_memory
from holdfast.faults import BitErrors
from holdfast.models import build_architecture

DATA = holdfast.dataset("digits", split="test").take(8)


@pytest.fixture
def shared() -> nn.Module:
    return build_architecture("digits-cnn", seed=0).eval().share_memory()


def test_a_campaign_in_processes_refuses_it_and_one_inline_does_not(shared: nn.Module) -> None:
    given = {"at": "weights", "trials": 8, "seed": 1, "engine": "hooks"}
    with pytest.raises(InvalidConfig, match=r"conv1\.weight is in memory that processes share"):
        campaign(shared, DATA, holdfast.BitFlip(), executor="processes:2", **given)
    inline = campaign(shared, DATA, holdfast.BitFlip(), **given).rows
    own = copy.deepcopy(shared)  # as the hint says
    assert campaign(own, DATA, holdfast.BitFlip(), executor="processes:2", **given).rows == inline


def test_chips_in_processes_refuse_it(shared: nn.Module) -> None:
    with pytest.raises(InvalidConfig, match="processes share"):
        robust_error(shared, DATA, BitErrors(rate=0.01), chips=2, executor="processes:2")


def test_files_that_are_mapped_count_by_who_sees_what_is_written(tmp_path: Path) -> None:
    model, path = build_architecture("digits-cnn", seed=0).eval(), tmp_path / "weights"
    torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, mmap=True), assign=True)
    require_own_memory(model)  # mapped, and written to by this process alone
    np.zeros(4096, np.float32).tofile(tmp_path / "open")
    model.register_buffer("seen", torch.from_numpy(np.memmap(tmp_path / "open", np.float32, "r+")))
    with pytest.raises(InvalidConfig, match="seen is in memory"):
        require_own_memory(model)


def test_where_nothing_says_what_is_mapped_torch_is_asked(
    shared: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_MAPS", tmp_path / "none")
    with pytest.raises(InvalidConfig, match="processes share"):
        require_own_memory(shared)
    require_own_memory(copy.deepcopy(shared))
