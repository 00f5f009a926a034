"""The validation of off-policy evaluation runs, its kept results keep what is promised, and its page shows them."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import io
import json
import re
import zipfile
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import offline_losses as ol

for _package in ("minari", "tensordict", "gymnasium", "rich", "matplotlib", "icu_sepsis"):
    if find_spec(_package) is None:
        pytest.skip(f"needs {_package}: see `make validation`", allow_module_level=True)

from validation import clinical, decisions
from validation.__main__ import KEPT, PARTS, main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "validation.md"
RESULTS = {file.stem: json.loads(file.read_text()) for file in KEPT.glob("*.json")}


@pytest.fixture(scope="module")
def world() -> clinical.IcuSepsis:
    """The process."""
    return clinical.IcuSepsis()


@pytest.fixture(scope="module")
def sample(world: clinical.IcuSepsis) -> clinical.Sampler:
    """Its patients."""
    return clinical.Sampler(world)


def toy_wheel(folder: Path) -> None:
    """Logs of five items in two positions, where a wheel has them."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "obp-0.4.1-toy.whl", "w") as archive:
        for policy in decisions.POLICIES.values():
            for campaign in decisions.CAMPAIGNS:
                rows = [f"{k % 5},{k % 2 + 1},{rng.integers(2)},{0.1 + rng.random() / 2}" for k in range(40)]
                text = "\n".join(["item_id,position,click,propensity_score", *rows])
                archive.writestr(f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv", text)


def test_one_command_makes_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: each policy, size and estimator has a row, and each decision an estimate."""
    import embedded

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setattr(clinical, "BOOTSTRAP", 3)
    monkeypatch.setattr(clinical, "MIXED", 3)
    monkeypatch.setattr(clinical, "AWR", clinical.AWR + " --episodes 1 --hidden 8")
    embedded.build_sepsis(0.002)
    toy_wheel(tmp_path)
    flags = ["--patients", "20", "30", "--resamples", "2", "--steps", "2"]
    main([*flags, "--work", str(tmp_path), "--out", str(tmp_path / "out")])

    found = {part: json.loads((tmp_path / "out" / f"{part}.json").read_text()) for part in PARTS}
    rows = [row for row in found["clinical"]["table"] if "bias" in row]
    assert len(rows) == 4 * 2 * (len(clinical.ESTIMATORS) + 2)
    assert len(found["clinical"]["table"]) == len(rows) + 4 * 2 + 1  # the other intervals
    assert all(0 <= row["coverage"] <= 1 and np.isfinite(row["bias"]) for row in rows)
    assert len(found["decisions"]) == 3 * 2 * 3
    assert [row["name"] for row in found["enumerated"]] == [row["name"] for row in RESULTS["enumerated"]]
    assert {part: _shape(found[part]) for part in PARTS} == {part: _shape(RESULTS[part]) for part in PARTS}


def _shape(result: object) -> object:
    """The keys of a result, those of the first of many."""
    if isinstance(result, dict):
        return {key: _shape(value) for key, value in result.items()}
    return [_shape(value) for value in result[:1]] if isinstance(result, list) else type(result)


def test_patients_are_those_of_the_process(world: clinical.IcuSepsis, sample: clinical.Sampler) -> None:
    """They survive as often as the linear solve says, last as long as those of the other sampler, and are whole."""
    log = sample(8000, np.random.default_rng(0))
    error = (0.78 * 0.22 / 8000) ** 0.5
    assert abs(log.reward.sum() / 8000 - world.survival(world.clinicians)) < 4 * error
    others = np.array([len(actions) for _, actions in world.sample(2000, np.random.default_rng(1))])
    assert abs(log.length.mean() - others.mean()) < 4 * others.std() / 2000**0.5
    assert np.all(log.done == (np.isin(np.arange(len(log.done)) + 1, np.cumsum(log.length))))
    going = np.flatnonzero(~log.done)
    assert np.all(log.state[going + 1] == log.following[going])
    assert np.all(world.transition[log.state, log.action, log.following] > 0)


def test_the_fitted_table_is_where_fitted_q_evaluation_settles(
    world: clinical.IcuSepsis, sample: clinical.Sampler
) -> None:
    """Regression on the table's own targets, again and again, from zero."""
    log = sample(30, np.random.default_rng(0))
    policy = clinical.policies(world, world.clinicians)["softened optimum"]
    q, value = clinical.fitted_values(log, policy)
    cells, states = policy.size, len(policy)
    cell = log.state * policy.shape[1] + log.action
    count, visits = np.bincount(cell, minlength=cells), np.bincount(log.state, minlength=states)
    iterated = np.where(np.arange(states) < clinical.DEATH, log.reward.sum() / 30, 0.0)
    for _ in range(2000):
        target = log.reward + iterated[log.following]
        mean = np.bincount(log.state, target, states) / np.maximum(visits, 1)
        table = (np.bincount(cell, target, cells).reshape(policy.shape) + mean[:, None]) / (
            count.reshape(policy.shape) + 1
        )
        iterated = np.where(visits > 0, (policy * table).sum(1), iterated)
    np.testing.assert_allclose(value, iterated, atol=1e-9)
    np.testing.assert_allclose((policy * q).sum(1)[log.state], value[log.state], atol=1e-9)


def test_the_ratios_of_visits_are_where_dual_dice_is_least(world: clinical.IcuSepsis, sample: clinical.Sampler) -> None:
    """Its gradient is zero at the table of values whose losses over a step they are."""
    log, discount = sample(30, np.random.default_rng(0)), 0.95
    ratio = clinical.visit_ratios(log, world.clinicians, discount)
    states, actions = ratio.shape
    within = world.clinicians[:states] * (ratio > 0)
    within /= np.maximum(within.sum(1, keepdims=True), 1e-300)
    cell = log.state * actions + log.action
    count = np.maximum(np.bincount(cell, minlength=states * actions), 1)
    onward = np.zeros((states * actions, len(world.clinicians)))
    np.add.at(onward, (cell, log.following), 1 / count[cell])
    onward = onward[:, :states]
    solved = np.linalg.solve(
        np.eye(states) - discount * np.einsum("sa,sat->st", within, onward.reshape(states, actions, states)),
        (within * ratio).sum(1),
    )
    table = torch.from_numpy(ratio.flatten() + discount * onward @ solved).requires_grad_()
    value = (torch.from_numpy(within) * table.view(states, actions)).sum(1)
    first = value[torch.from_numpy(log.state[np.cumsum(log.length) - log.length])].sum() / (1 - discount)
    chosen = torch.from_numpy(cell)
    following = (torch.from_numpy(onward) @ value)[chosen]
    ended = torch.zeros(len(cell), dtype=torch.bool)
    found = ol.dual_dice_loss(
        table[chosen], following, first.expand(len(cell)) / len(cell), ended, exponent=2.0, discount=discount
    )
    (slope,) = torch.autograd.grad(found, table)
    assert slope.abs().max() < 1e-12


def test_what_was_kept_is_what_is_promised() -> None:
    """No bias where all is enumerated, and the numbers of the peers."""
    assert max(abs(row["difference"]) for row in RESULTS["enumerated"]) < 1e-12
    assert max(abs(row["ours"] - row["theirs"]) for row in RESULTS["peers"]["rows"]) < 1e-9
    assert {row["peer"] for row in RESULTS["peers"]["rows"]} == {"obp", "scope-rl"}
    ours = {(row["data"], row["name"]): row["ours"] for row in RESULTS["peers"]["rows"]}
    for row in RESULTS["decisions"]:
        assert row["value"] == pytest.approx(ours[f"{row['policy']} in {row['campaign']}", row["name"]], rel=1e-5)
    table = RESULTS["clinical"]["table"]
    assert RESULTS["clinical"]["resamples"] == 200
    assert {row["patients"] for row in table} == {200, 2000, 20_000}
    assert {row["name"] for row in table} >= {*clinical.ESTIMATORS, "magic_value", "dual_dice_loss"}
    assert len(table) == 4 * 3 * (len(clinical.ESTIMATORS) + 3) + 1


def test_the_page_shows_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bias, deviation and coverage, every click rate and every difference."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    blocks = re.findall(r"^```python exec=[^\n]*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    space: dict[str, object] = {}
    with redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), space)
    shown = printed.getvalue().replace("−", "-")
    for row in RESULTS["clinical"]["table"]:
        if "bias" in row:
            spread = f"{row['bias']:.3f} ± {row['deviation']:.3f} ({row['claimed_error']:.3f})"
            assert f"{spread}, {100 * row['coverage']:.0f} %" in shown
    for policy in RESULTS["clinical"]["policies"].values():
        assert f"| {policy['truth']:.4f} | {policy['within_the_data']:.4f} |" in shown
    for row in RESULTS["decisions"]:
        low, high = 1000 * row["low"], 1000 * row["high"]
        assert f"| {1000 * row['value']:.1f} [{low:.1f}, {high:.1f}] | {row['effective_sample_size']:,.0f} |" in shown
    assert "TODO" not in PAGE.read_text()
