"""Every recipe learns for a few steps on a tiny dataset, and the demo makes its tables, figures and JSON."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

for _package in ("minari", "tensordict", "gymnasium", "rich", "pygame", "matplotlib"):
    pytest.importorskip(_package, reason="needs the extra offline-losses[demo]")

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
sys.path.insert(0, str(RECIPES))

import common
import decision_transformer
import demo
import embedded
import ilql
import iql
from networks import SamplingPolicy
from saved import load_policy
from summary import show
from tensordict import TensorDict

PENDULUM, CARTPOLE, ICU = "pendulum/mixed-v0", "cartpole/mixed-v0", "icu-sepsis/clinicians-v0"
MAZE = "maze/play-v0"
SHORT = ["--steps=60", "--evaluations=3", "--episodes=3", "--probe=5", "--batch-size=64", "--discount=0.9"]

needs_sepsis = pytest.mark.skipif(find_spec("icu_sepsis") is None, reason="needs icu-sepsis")


@pytest.fixture(scope="module", autouse=True)
def _tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        embedded.build_pendulum(0.03)
        embedded.build_cartpole(0.03)
        embedded.build_maze(0.03)
        if find_spec("icu_sepsis") is not None:
            embedded.build_sepsis(0.005)
        yield


@pytest.mark.parametrize(
    ("recipe", "dataset", "flags", "falling"),
    [
        ("bc", PENDULUM, "", "policy_loss"),
        ("bc", PENDULUM, "--fraction 0.3", "policy_loss"),
        ("bc", CARTPOLE, "", "policy_loss"),
        ("awr", PENDULUM, "", "value_loss"),
        ("awr", CARTPOLE, "", "value_loss"),
        ("decision_transformer", PENDULUM, "--context 4 --hidden 8 --wish -200", "policy_loss"),
        ("decision_transformer", CARTPOLE, "--context 4 --hidden 8", "policy_loss"),
        ("hiql", MAZE, "", "high_loss"),
        ("iql", PENDULUM, "", "critic_loss"),
        ("iql", CARTPOLE, "", "critic_loss"),
        pytest.param("iql", PENDULUM, "--compile", "critic_loss", marks=pytest.mark.thorough),
        ("xql", PENDULUM, "", "critic_loss"),
        ("xql", CARTPOLE, "", "critic_loss"),
        ("sql", PENDULUM, "", "critic_loss"),
        ("sql", CARTPOLE, "--exponential", "critic_loss"),
        ("edac", PENDULUM, "", "critic_loss"),
        ("edac", PENDULUM, "--critics 3 --diversity 0", "critic_loss"),
        ("hl_gauss", PENDULUM, "--lr 0.01", "critic_loss"),
        ("hl_gauss", CARTPOLE, "--lr 0.01 --bins 21", "critic_loss"),
        ("qr_cql", CARTPOLE, "", "gap"),
        ("qr_cql", CARTPOLE, "--conservative 0 --quantiles 8", "critic_loss"),
        ("cql", PENDULUM, "", "gap"),
        ("cql", PENDULUM, "--lagrange 1.0", "gap"),
        ("td3_bc", PENDULUM, "", "critic_loss"),
        ("td3_bc", PENDULUM, "--compile", "critic_loss"),
        ("rebrac", PENDULUM, "", "critic_loss"),
        ("rebrac", PENDULUM, "--critic-bc 1", "critic_loss"),
        ("fql", PENDULUM, "", "critic_loss"),
        pytest.param("fql", PENDULUM, "--compile --flow-steps 2", "critic_loss", marks=pytest.mark.thorough),
        ("recap", PENDULUM, "", "flow_loss"),
        ("compose", PENDULUM, "--lr 0.01", "critic_loss"),
        ("diffusion_bc", PENDULUM, "", "policy_loss"),
        ("diffusion_bc", PENDULUM, "--fraction 0.3 --prediction-type v", "policy_loss"),
        ("sac", PENDULUM, "", "critic_loss"),
        ("discrete_cql", CARTPOLE, "", "gap"),
        ("discrete_cql", CARTPOLE, "--conservative 0", "critic_loss"),
    ],
)
def test_recipe_learns_and_writes_what_it_measured(
    recipe: str, dataset: str, flags: str, falling: str, tmp_path: Path
) -> None:
    argv = ["--dataset", dataset, *SHORT, "--out", str(tmp_path), *flags.split()]
    [result] = importlib.import_module(recipe).main(argv)
    history = result["history"]
    assert [row["step"] for row in history] == [20, 40, 60]
    assert history[-1][falling] < history[0][falling]
    assert math.isfinite(result["return"])
    assert ("q_data" in result) == (
        recipe not in ("bc", "awr", "recap", "diffusion_bc", "decision_transformer", "hiql")
    )
    assert json.loads((tmp_path / "result.json").read_text()) == result
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [float(row["return"]) for row in csv.DictReader(file)] == [row["return"] for row in history]
    saved = load_policy(tmp_path)
    returns = embedded.evaluate(dataset, saved.begin(), 3, common.TEST_SEED)
    if not isinstance(saved.policy, SamplingPolicy):  # which goes on drawing other noise
        assert returns.mean() == pytest.approx(result["return"], rel=1e-6)


RUNS = [
    ("bc", PENDULUM),
    ("awr", CARTPOLE),
    ("hiql", MAZE),
    ("iql", PENDULUM),
    ("xql", CARTPOLE),
    ("sql", PENDULUM),
    ("edac", PENDULUM),
    ("hl_gauss", CARTPOLE),
    ("qr_cql", CARTPOLE),
    ("cql", PENDULUM),
    ("td3_bc", PENDULUM),
    ("rebrac", PENDULUM),
    ("fql", PENDULUM),
    ("recap", PENDULUM),
    ("compose", PENDULUM),
    ("diffusion_bc", PENDULUM),
    ("sac", PENDULUM),
    ("discrete_cql", CARTPOLE),
]


Tensors = dict[str, torch.Tensor]


def learned(monkeypatch: pytest.MonkeyPatch, recipe: str, updates: int, *argv: str) -> tuple[Tensors, Tensors]:
    """In float64: the policy's first parameters and the first batch; the last losses and parameters. All `[R, ...]`."""
    module, loaded = importlib.import_module(recipe), importlib.import_module("task").load_task

    def load_task(*options: Any, **kind: Any) -> Any:
        task = loaded(*options, **kind)
        task.data = task.data.apply(lambda x: x.double() if x.is_floating_point() else x)
        return task

    def train(_: str, task: Any, options: Namespace, update: Any, *, policy: Any, **how: Any) -> Any:
        batches = common.batches(task.data, options, how.get("normal", {}), how.get("uniform", {}))
        drawn = {key: x.detach().clone() for key, x in policy.named_parameters()}
        for step in range(1, updates + 1):
            if "prepare" in how:
                how["prepare"](step)
            batch = next(batches)
            if step == 1:
                drawn |= dict(batch.flatten_keys(".").items())
            losses = update(batch)
        return drawn, {key: x.detach() for key, x in (losses | dict(policy.named_parameters())).items()}

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_task", load_task)
        patch.setattr(module, "train", train)
        torch.set_default_dtype(torch.float64)
        try:
            return module.main([*argv, "--batch-size=32", "--hidden=16"])
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("recipe", "dataset"), RUNS)
def test_a_run_among_several_is_the_run_alone(recipe: str, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is the same to the last bit; products of one matrix and of three differ in it."""
    drawn_alone, alone = learned(monkeypatch, recipe, 1, "--dataset", dataset, "--seed=3")
    drawn_among, among = learned(monkeypatch, recipe, 1, "--dataset", dataset, "--seed=2", "--seeds=3")
    for key, x in drawn_alone.items():
        assert len(drawn_among[key]) == 3, key
        assert torch.equal(drawn_among[key][1:2], x), key
    assert not torch.equal(drawn_among["observation"][0], drawn_among["observation"][1])
    for key, x in alone.items():
        torch.testing.assert_close(among[key][1:2], x, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize(("recipe", "dataset"), [("iql", CARTPOLE), ("sac", PENDULUM)])
def test_runs_stay_apart_over_many_updates(recipe: str, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, alone = learned(monkeypatch, recipe, 100, "--dataset", dataset, "--seed=3")
    _, among = learned(monkeypatch, recipe, 100, "--dataset", dataset, "--seed=2", "--seeds=3")
    for key, x in alone.items():
        torch.testing.assert_close(among[key][1:2], x, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("recipe", "dataset", "flag", "values"),
    [
        ("iql", PENDULUM, "--expectile", ("0.6", "0.9")),
        ("awr", CARTPOLE, "--temperature", ("0.1", "3")),
        ("xql", PENDULUM, "--temperature", ("0.1", "3")),
        ("sql", CARTPOLE, "--temperature", ("0.1", "3")),
        ("hl_gauss", PENDULUM, "--expectile", ("0.6", "0.9")),
        ("td3_bc", PENDULUM, "--q-weight", ("1", "5")),
        ("rebrac", PENDULUM, "--critic-bc", ("0", "1")),
        ("fql", PENDULUM, "--distillation", ("0.1", "1")),
    ],
)
def test_a_value_of_a_sweep_is_that_value_alone(
    recipe: str, dataset: str, flag: str, values: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = learned(monkeypatch, recipe, 3, "--dataset", dataset, "--seed=1", flag, values[1])
    _, among = learned(monkeypatch, recipe, 3, "--dataset", dataset, "--seeds=2", flag, *values)
    for key, x in alone.items():
        assert len(among[key]) == 4, key  # both seeds with the first value, then with the second
        torch.testing.assert_close(among[key][3:], x, rtol=1e-9, atol=1e-11, msg=key)
    assert any(not torch.allclose(among[key][1], among[key][3]) for key in alone)


def test_a_sweep_can_be_repeated_and_a_run_of_it_made_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the last digit from the same command, and to rounding alone."""
    command = ["--dataset", PENDULUM, *SHORT, "--seeds=2"]
    first, again = (iql.main([*command, "--expectile", "0.6", "0.9", "--out", str(tmp_path)]) for _ in range(2))
    assert "interquartile mean" in capsys.readouterr().out
    for result in (*first, *again):
        del result["seconds"], result["updates_per_second"]
    assert first == again
    [alone] = iql.main(["--dataset", PENDULUM, *SHORT, "--seed=1", "--expectile=0.9", "--out", str(tmp_path / "alone")])
    assert first[3]["setting"] == {"expectile": 0.9}
    assert first[3]["return"] == pytest.approx(alone["return"], rel=1e-4)
    assert first[3]["true_return"] == pytest.approx(alone["true_return"], rel=1e-4)
    saved, expected = (load_policy(tmp_path / name) for name in ("expectile-0.9-seed-1", "alone"))
    torch.testing.assert_close(saved.policy.state_dict(), expected.policy.state_dict(), rtol=1e-4, atol=1e-5)


def test_one_seed_has_no_standard_error_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Two values beside each other, each with one seed: a single number, whatever its episodes' spread."""
    about = {"recipe": "iql", "dataset": PENDULUM, "seconds": 1.0, "updates_per_second": 1.0, "history": []}
    found = {"return": 5.0, "return_standard_error": 0.25, "options": {"seed": 0}}
    results = [about | found | {"setting": {"expectile": value}} for value in (0.6, 0.9)]
    show(results)
    assert "±" not in capsys.readouterr().out
    show([result | {"options": {"seed": seed}} for result in results for seed in range(2)])
    assert "5 ± 0" in capsys.readouterr().out


def test_runs_one_after_the_other_are_the_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a recipe whose network has no axis of runs."""
    flags = ["--dataset", CARTPOLE, *SHORT, "--context=4"]
    together = decision_transformer.main([*flags, "--seeds=2", "--out", str(tmp_path)])
    assert "interquartile mean" in capsys.readouterr().out
    alone = [result for seed in range(2) for result in decision_transformer.main([*flags, f"--seed={seed}"])]
    for one, other in zip(together, alone, strict=True):
        for key in ("return", "history", "setting"):
            assert one[key] == other[key]
        assert (tmp_path / f"seed-{one['options']['seed']}" / "policy.pt").exists()


@pytest.mark.parametrize(
    "flags", [["--expectile", "0.6", "1.5"], ["--temperature", "0", "1"], ["--max-weight=nan"]], ids=str
)
def test_every_value_of_a_sweep_is_in_its_range(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        iql.main(flags)
    assert "expected a number in (0, " in capsys.readouterr().err


SCRIPTS = sorted(Path(common.__file__).parent.glob("*.py"))
FLAG = re.compile(r'"(--[a-z-]+)",\s*(?:type=)?(\w*)')
FLAGS = [
    (path.stem, flag)
    for path in SCRIPTS
    for flag, kind in FLAG.findall(path.read_text())
    if kind.startswith(("number", "real", "count", "from_"))
]


@pytest.mark.parametrize(("recipe", "flag"), [each for each in FLAGS if each[0] != "common"])
def test_what_is_no_number_is_a_sentence(recipe: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In front of all work; a number that is not finite is none."""
    with pytest.raises(SystemExit):
        importlib.import_module(recipe).main([flag, "nan"])
    assert f"argument {flag}: expected a " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "number", "said"),
    [
        ("--polyak", "1.5", "a number in [0, 1], got 1.5"),
        ("--discount", "-0.1", "a number in [0, 1], got -0.1"),
        ("--lr", "0", "a number in (0, inf), got 0"),
        ("--return-range", "inf", "a number in (0, inf), got inf"),
        ("--seed", "-1", "a whole number of at least 0, got -1"),
    ],
)
def test_what_is_not_swept_is_in_its_range(
    flag: str, number: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        iql.main([flag, number])
    assert f"argument {flag}: expected {said}" in capsys.readouterr().err


def test_every_number_of_the_command_line_has_a_range() -> None:
    assert len(FLAGS) > 50
    assert not [
        path for path in Path("docs/recipes").glob("*.py") if re.search(r"type=(float|int)\b", path.read_text())
    ]


@pytest.mark.parametrize("flag", ["--seeds", "--steps", "--batch-size", "--checkpoints"])
@pytest.mark.parametrize("number", ["0", "-1", "1.5", "two"])
def test_what_is_counted_is_at_least_one(flag: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        iql.main([flag, number])
    assert f"argument {flag}: expected a whole number of at least 1, got {number}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "dataset", "better"),
    [
        ("cql", CARTPOLE, "discrete_cql.py"),
        ("td3_bc", CARTPOLE, "discrete_cql.py"),
        ("rebrac", CARTPOLE, "discrete_cql.py"),
        ("sac", CARTPOLE, "discrete_cql.py"),
        ("edac", CARTPOLE, "discrete_cql.py"),
        ("fql", CARTPOLE, "discrete_cql.py"),
        ("discrete_cql", PENDULUM, "cql.py"),
        ("qr_cql", PENDULUM, "cql.py"),
    ],
)
def test_the_other_kind_of_actions_is_refused(recipe: str, dataset: str, better: str) -> None:
    with pytest.raises(SystemExit, match=f"{dataset} has .* actions: take {better}"):
        importlib.import_module(recipe).main(["--dataset", dataset, *SHORT])


def test_filtered_cloning_imitates_the_best_episodes_only() -> None:
    import bc

    [everything] = bc.main(["--dataset", CARTPOLE, *SHORT])
    [best] = bc.main(["--dataset", CARTPOLE, *SHORT, "--fraction", "0.05"])
    assert best["dataset_mean"] == everything["dataset_mean"]  # of the whole dataset, whatever is imitated
    # one controller is easier to imitate than a mixture
    assert best["history"][-1]["policy_loss"] < everything["history"][-1]["policy_loss"]


@pytest.fixture
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small vocabulary."""
    monkeypatch.setattr(ilql, "VOCABULARY", 64)
    for name, tokens in zip(("SURE", "LUCKY", "WRONG"), torch.arange(4, 52).view(3, 4, 4), strict=True):
        monkeypatch.setattr(ilql, name, tokens)


@pytest.mark.usefixtures("_few_words")
def test_a_run_of_ilql_among_several_is_the_run_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its data to the last bit, and in its networks after the first update."""
    train = ilql.train
    monkeypatch.setattr(ilql, "score", lambda logits: float(logits(torch.zeros(1, 1).long()).detach().sum()))

    def learned(*argv: str) -> list[tuple[torch.Tensor, ...]]:
        kept: list[tuple[torch.Tensor, ...]] = []

        def keeping(seeds: Any, steps: int, loss: Any, data: list[torch.Tensor], *heads: str) -> Any:
            network = train(seeds, steps, loss, data, *heads)
            kept.append((*data, *(x.detach() for x in network.parameters())))
            return network

        monkeypatch.setattr(ilql, "train", keeping)
        torch.set_default_dtype(torch.float64)
        try:
            results = ilql.main(["--steps=1", *argv])
        finally:
            torch.set_default_dtype(torch.float32)
        return [*kept, tuple(torch.tensor([*result.values()]) for result in results)]

    *alone, (score,) = learned("--seed=3")
    assert "±" not in capsys.readouterr().out
    *among, scores = learned("--seed=2", "--seeds=3")
    assert "±" in capsys.readouterr().out
    for one, several in zip(alone, among, strict=True):
        for x, all_runs in zip(one, several, strict=True):
            assert len(all_runs) == 3
            torch.testing.assert_close(all_runs[1:2], x, rtol=0, atol=0 if x.dtype == torch.int64 else 1e-10)
        assert not torch.equal(several[0][0], several[0][1])
    torch.testing.assert_close(scores[1], score, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_few_words")
def test_ilql_learns_what_tokens_are_worth() -> None:
    """In fewer updates."""
    [result] = ilql.main(["--steps=120"])
    assert result["data"] == pytest.approx(0.4, abs=0.05)
    assert result["imitation"] == pytest.approx(0.4, abs=0.1)
    assert result["imitation"] < result["filtered imitation"] < 0.9
    assert result["imitation"] < result["perturbed logits"] <= 1


def test_td3_bc_climbs_its_critic() -> None:
    """The weight of Q decides where the policy goes; without a gradient through Q it would clone all the same."""
    import td3_bc

    near, far = (td3_bc.main(["--dataset", PENDULUM, *SHORT, "--q-weight", weight])[0] for weight in ("1e-6", "100"))
    assert near["return"] != far["return"]


def test_rebrac_pays_for_leaving_the_data() -> None:
    """The critics' weight lowers what they think of the data's own actions, and the policy's moves the policy."""
    import rebrac

    near, far, cheap = (
        rebrac.main(["--dataset", PENDULUM, *SHORT, "--policy-bc", policy, "--critic-bc", critic])[0]
        for policy, critic in (("10", "10"), ("0", "10"), ("10", "0"))
    )
    assert near["q_data"] < cheap["q_data"]
    assert near["return"] != far["return"]


@pytest.mark.parametrize(
    ("recipe", "dataset", "flags", "estimates"),
    [
        ("bc", CARTPOLE, "", 8),
        ("discrete_cql", CARTPOLE, "", 8),
        ("bc", PENDULUM, "", 1),
        pytest.param("bc", ICU, "--greedy", 8, marks=needs_sepsis),
    ],
)
def test_a_saved_policy_is_judged_without_running(
    recipe: str, dataset: str, flags: str, estimates: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import evaluate

    short = ["--dataset", dataset, *SHORT, "--evaluations", "1", "--episodes", "1"]
    importlib.import_module(recipe).main([*short, "--out", str(tmp_path)])
    found = evaluate.main([*short, "--policy", str(tmp_path), "--truth", *flags.split()])
    assert len(found["estimates"]) == estimates
    assert all(math.isfinite(value) for value, _, _ in found["estimates"].values())
    assert math.isfinite(found["truth"])
    printed = capsys.readouterr().out
    assert f"{found['truth']:.4g}" in printed
    assert found["words"] in printed


def test_a_policy_is_judged_on_data_of_its_own_spaces(tmp_path: Path) -> None:
    import evaluate

    with pytest.raises(SystemExit, match="No such file or directory"):
        evaluate.main(["--dataset", PENDULUM, *SHORT, "--policy", str(tmp_path / "none")])
    importlib.import_module("bc").main(["--dataset", PENDULUM, *SHORT, "--out", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=f"^{CARTPOLE} has other spaces than the policy, which learned from {PENDULUM}"
    ):
        evaluate.main(["--dataset", CARTPOLE, *SHORT, "--policy", str(tmp_path)])


@needs_sepsis
def test_a_table_of_the_clinical_world_has_probabilities_where_patients_are_treated() -> None:
    """And none elsewhere; its exact Q, undiscounted, makes the survival."""
    import truth

    world, table = truth.clinical_world(), truth.probability_table(lambda rows: rows[:, :25].softmax(-1))
    assert table[: truth.DEATH].sum(1) == pytest.approx(1)
    assert not table[truth.DEATH :].any()
    value = (table[: truth.DEATH] * truth.discounted_survival(table, 1.0)).sum(1)
    assert world.initial[: truth.DEATH] @ value == pytest.approx(world.survival(table))


def test_what_is_said_of_estimates() -> None:
    """Enough episodes whose weights are one on average are trusted, and the model too where it agrees."""
    from evaluate import judged

    def said(size: float, value: float, weight: float) -> str:
        found = {"weighted_doubly_robust": [value, 0.1, size], "mean weight": [weight, 0.05, size]}
        return judged({"fitted Q": [1.0, 0.0, 0.0], **found}, 1000)

    assert said(400.0, 1.1, 1.05).endswith("Trust the doubly robust estimates, and the model.")
    assert said(400.0, 1.9, 1.05).endswith("Trust the doubly robust estimates, and not the model.")
    assert "Trust none of these: too little of the log" in said(4.0, 1.1, 1.0)
    assert "Trust none of these: propensities" in said(400.0, 1.1, 1.4)
    assert "Trust none of these: propensities" in said(400.0, 1.1, 0.8)
    assert judged({"fitted Q": [1.0, 0.0, 0.0]}, 1000).startswith("No ratios")


@needs_sepsis
def test_demo_makes_tables_figures_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two families on each dataset."""
    monkeypatch.setattr(demo, "RUNS", [run for run in demo.RUNS if run.family in ("BC", "IQL", "HIQL")])
    assert Counter(run.dataset for run in demo.RUNS) == dict.fromkeys(demo.SHARED, 2)
    tiny = [
        "--steps-scale",
        "0.001",
        "--jobs",
        "1",
        "--seeds",
        "2",
        "--flags",
        "--episodes 2 --evaluations 2 --probe 4 --hidden 8",
    ]
    results = demo.main(["--out", str(tmp_path), *tiny])
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [(row["dataset"], row["family"]) for row in saved] == [(run.dataset, run.family) for run in demo.RUNS]
    assert saved == results
    for name in ("learning_curves.png", "q_and_truth.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for run in demo.RUNS:
        assert run.dataset in printed
        assert run.family in printed
    assert "clinicians 0.7818, uniform 0.7801, optimum 0.8751" in printed
    assert f"{len(demo.RUNS)} of {len(demo.RUNS)} runs done" in printed  # though there is no terminal
    assert printed.index("A first look") < printed.index(f"{len(demo.RUNS)} of")
    assert "interquartile mean" in printed
    for row in results:
        assert row["seeds"] == [0, 1]
        assert row["return"] == pytest.approx(sum(row["returns"]) / 2)
        assert row["return_standard_error"] == pytest.approx(abs(row["returns"][0] - row["returns"][1]) / 2)


def test_seeds_are_summed_up_by_mean_standard_error_and_interquartile_mean() -> None:
    """Of eight seeds the middle four; a single one has no standard error but that of its episodes."""
    from summary import over_seeds

    found = over_seeds([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0])
    assert found["mean"] == pytest.approx(91 / 8)
    assert found["standard_error"] == pytest.approx(math.sqrt((sum(x**2 for x in [*range(7), 70]) - 91**2 / 8) / 7 / 8))
    assert found["iqm"] == 3.5
    low, high = found["iqm_interval"]
    assert 0 <= low <= 3.5 <= high <= 70
    assert over_seeds([3.0]) == {"mean": 3.0, "standard_error": None, "iqm": 3.0, "iqm_interval": None}


@needs_sepsis
def test_true_return_of_the_clinical_world_is_the_discounted_survival_of_its_patients() -> None:
    """The exact Q of the clinicians' table, averaged over the first step of sampled patients, is how many survive."""
    import numpy as np
    import truth

    world = truth.clinical_world()
    patients = world.sample(4000, np.random.default_rng(0))
    q = truth.discounted_survival(world.clinicians, 0.9)
    claimed = np.array([q[states[0], actions[0]] for states, actions in patients])
    earned = np.array([0.9 ** (len(actions) - 1) * (states[-1] == truth.SURVIVAL) for states, actions in patients])
    assert abs(claimed.mean() - earned.mean()) < 4 * (earned - claimed).std() / math.sqrt(len(patients))


@pytest.mark.parametrize("dataset", [PENDULUM, CARTPOLE])
def test_true_return_from_a_recorded_state_is_what_was_recorded(dataset: str) -> None:
    """Put into a recorded state, the environment repeats the recorded steps when the recorded actions are played."""
    import torch
    import truth

    data = embedded.load(dataset)[:7]
    played = iter(data["action"][1:])

    def follow(observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return next(played).unsqueeze(0), torch.zeros(1)

    discount = truth.NEGLIGIBLE ** (1 / 6.5)  # the seventh step is the last one that counts
    first = data[:1]
    value = truth.true_return(dataset, first["observation"], first["action"], follow, discount)
    assert value is not None
    expected = sum(discount**k * reward for k, reward in enumerate(data["next", "reward"].tolist()))
    assert value[0] == pytest.approx(expected, rel=1e-4)


def test_two_processes_train_as_one_with_both_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun each takes batches of its own; after 100 updates the policy is that of one process with all."""
    flags = [f"--dataset={PENDULUM}", "--steps=100", "--evaluations=1", "--episodes=1", "--probe=1", "--discount=0.9"]
    group = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*group, str(RECIPES / "iql.py"), *flags, "--batch-size=16", f"--out={tmp_path / 'two'}"]
    root = str(RECIPES.parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True)

    generators = [torch.Generator().manual_seed(2**20 * rank) for rank in range(2)]

    def both(data: TensorDict, options: Namespace, _: list[torch.Generator]) -> TensorDict:
        rows = [torch.randint(len(data), (options.batch_size,), generator=each) for each in generators]
        return data[torch.cat(rows).unsqueeze(0)]

    monkeypatch.setattr(common, "draw", both)
    iql.main([*flags, "--batch-size=16", f"--out={tmp_path / 'one'}"])
    one, two = (torch.load(tmp_path / name / "policy.pt", weights_only=True) for name in ("one", "two"))
    weights = [{name: x for name, x in flat(content) if isinstance(x, torch.Tensor)} for content in (one, two)]
    assert weights[0]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-5)


def flat(content: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested dict holds, each with its path."""
    for name, x in content.items():
        if isinstance(x, dict):
            yield from flat(x, f"{path}{name}.")
        else:
            yield f"{path}{name}", x
