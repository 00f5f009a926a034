"""Batches whose rows are spread over two processes give what one process gives, and take few collectives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ledger import CASES, Case

import offline_losses

ROOT = Path(offline_losses.__file__).parent.parent
WAYS = [(case, way) for case in CASES for way in (["even", "uneven", "mask"] if case.row.tail else ["even", "uneven"])]
FLAT = [
    f"{name}/flat {split}"
    for name in ("return_filter", "reward_scale", "episode_return", "discounted_return")
    for split in range(3)
]

REDUCED = {
    "cql_lagrange_losses": 2,
    "quasimetric_losses": 3,
    "td3_bc_loss": 3,
    "ddpg_bc_loss": 3,
    "rebrac_policy_loss": 3,
    "normalize_advantage": 3,
    "normalize_weights": 4,
    "effective_sample_size": 4,
    "observation_statistics": 4,
    "observation_moments": 2,
    "reward_scale": 3,
    "combo_penalty": 5,
    "smodice_loss": 6,
    "sampling_probabilities": 6,
    "overestimation_gap": 5,
    "q_gap": 5,
    "clip_fraction": 1,
    "td_error_scale": 8,
    "support_coverage": 1,
}
"""How many sums or maxima over processes a call takes: one for the count of a mask, and more for a statistic."""

GATHERED = {
    "return_filter": 2,
    "top_fraction_weights": 2,
    "advantage_indicator": 2,
    "interquartile_mean": 1,
    "return_threshold": 2,
}
"""What ranks all rows together has to see them, and so does what compares episodes."""

BACKWARDS = {
    "nearest_distance_penalty",
    "two_hot",
    "categorical_projection",
    "reward_scale",
    "observation_statistics",
    "observation_moments",
    "overestimation_gap",
    "q_gap",
    "td_error_scale",
    "linear_log_prob",
    "linear_cql_penalty",
    "linear_nll_loss",
}
"""Whose gradient is gathered too: that of what every process has, or of a statistic."""


pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="DTensors of older releases have other means of uneven rows, and fewer rules"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found, which end here whatever happens."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("there is no gloo")
    path = tmp_path_factory.mktemp("processes") / "found.json"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "spread.py"), str(path)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as group:
        try:
            assert group.wait(timeout=600) == 0
        finally:
            if group.poll() is None:
                os.killpg(group.pid, signal.SIGKILL)
    results: dict[str, Any] = json.loads(path.read_text())
    return results


@pytest.mark.parametrize(("case", "way"), WAYS, ids=str)
def test_two_processes_are_one(found: dict[str, Any], case: Case, way: str) -> None:
    """In value and in the gradient of every argument."""
    assert "error" not in found[f"{case}/{way}"], found[f"{case}/{way}"]["error"]


@pytest.mark.parametrize("name", FLAT)
def test_episodes_may_lie_on_two_processes(found: dict[str, Any], name: str) -> None:
    """A flat dataset may be cut within an episode: the same are kept, with the same returns."""
    assert "error" not in found[name], found[name]["error"]


@pytest.mark.parametrize(("case", "way"), WAYS, ids=str)
def test_collectives_are_few(found: dict[str, Any], case: Case, way: str) -> None:
    """Nothing is gathered but what is ranked; a mask is counted once, the gradient of what all have summed once."""
    name, result = case.row.name, found[f"{case}/{way}"]
    if case.row.refuses_nothing and name.endswith("_value"):  # a mean, an error and a size, of sums over all episodes
        assert sum(result["forwards"].values()) <= 18
        return
    forwards, backwards = ({**result[way]} for way in ("forwards", "backwards"))
    assert forwards.pop("all_reduce", 0) <= REDUCED.get(name, way == "mask")
    assert forwards.pop("all_gather_into_tensor", 0) <= GATHERED.get(name, 0)
    assert not forwards
    if name not in BACKWARDS:
        assert backwards.pop("all_reduce", 0) <= (2 if name == "effective_sample_size" else 1)
        assert not backwards


def test_the_lists_name_functions() -> None:
    """And none that has left."""
    assert {*REDUCED, *GATHERED, *BACKWARDS} <= {case.row.name for case in CASES}
