"""The benchmarks cover the ledger, notice a wrong variant, and turn results into tables, promises and a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ledger import LEDGER
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.utils._python_dispatch import TorchDispatchMode

import offline_losses
from benchmarks import cases, many_runs, networks, peers, reading, summary, updates
from benchmarks.measure import Bench, Measurement, merged, read_csv, write_csv
from benchmarks.networks import ManyNetworks, Networks
from benchmarks.timing import (
    MODES,
    OutOfPatience,
    Variant,
    Workload,
    agree,
    first_calls,
    interleave,
    peak_bytes,
    run_of,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
GRID = list(cases.grid([256]))


def test_every_row_of_the_ledger_is_timed() -> None:
    """Forward, and backward where a gradient comes out."""
    for row in LEDGER:
        modes = [work.mode for work in GRID if work.name == row.name]
        assert modes == list(MODES[:1] if row.detached else MODES), row.name


@pytest.mark.parametrize("work", [work for work in GRID if work.mode == MODES[1]], ids=str)
def test_the_first_tensor_has_the_size_of_the_row(work: Workload) -> None:
    """And the reference computes a result and at least one gradient."""
    assert 250 < work.elements <= 256
    assert torch.Size(json.loads(work.shape)).numel() == work.elements
    result = work.variants(CPU)["eager"]().run()
    assert len(result) >= 2
    assert any(part is not None and part.any() for part in result[1:])


def test_reading_gives_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari", reason="needs the extra offline-losses[data]")
    monkeypatch.setattr(reading, "STEPS", 120)
    monkeypatch.setattr(reading, "EPISODES", (6,))
    monkeypatch.setattr(reading, "TIMED", 6)
    read, kept, folder = (work.variants(CPU) for work in reading.readings())
    expected = read["eager"]().run()
    assert expected[0].shape == (120, 11)
    for make in (read["minari"], kept["eager"], kept["eager"], folder["eager"]):
        assert agree(make().run(), expected, 0.0)
    peak = folder["eager"]().peak
    assert peak is not None
    assert 0 <= peak() < 2**27


def workload(**runs: Variant) -> Workload:
    """A piece of work of these variants, with a copy as its floor."""
    makers = {name: lambda variant=variant: variant for name, variant in runs.items()}
    floor = Variant(torch.ones(4).clone, tolerance=None)
    return Workload("grid", "work", "[4]", MODES[0], 4, lambda device: {**makers, "floor": lambda: floor})


def test_a_wrong_variant_is_called_wrong_and_not_timed() -> None:
    """A result that is off by a thousandth; the others are timed."""
    x = torch.linspace(1, 2, 4)
    variants = {"eager": Variant(lambda: [x]), "fused": Variant(lambda: [1.001 * x]), "peer": Variant(lambda: [x + 0])}
    eager, fused, peer = Bench(CPU)(workload(**variants))
    assert (eager.status, fused.status, peer.status) == ("ok", "WRONG", "ok")
    assert fused.broken
    assert fused.median_us is None
    assert eager.median_us is not None
    assert eager.floor_us is not None


def test_a_wrong_gradient_is_wrong() -> None:
    """The values agree, the gradients do not."""
    x = torch.ones(3, requires_grad=True)
    right, wrong = (run_of(function, {"x": x}, MODES[1]) for function in (torch.square, lambda x: x * x.detach()))
    assert not agree(wrong(), right(), 1e-4)
    assert agree(right(), right(), 1e-4)


def test_no_gradient_agrees_with_zeros_alone() -> None:
    """Some return None for what does not depend on an input, others zeros."""
    assert agree([None], [torch.zeros(2)], 1e-4)
    assert not agree([None], [torch.ones(2)], 1e-4)


def test_what_cannot_be_imported_is_skipped_and_what_fails_is_told() -> None:
    """Neither ends the run; only ours counts as broken."""

    def missing() -> None:
        raise ImportError("no such peer")

    def failing() -> None:
        raise RuntimeError("out of luck")

    variants = {"eager": Variant(list), "peer": Variant(missing), "fused": Variant(failing)}
    _, peer, fused = Bench(CPU)(workload(**variants))
    assert (peer.status, peer.broken) == ("skipped: no such peer", False)
    assert (fused.status, fused.broken) == ("failed: RuntimeError: out of luck", True)


def test_patience_ends() -> None:
    """A first call that takes too long is given up."""

    def endless() -> None:
        while True:
            pass

    with pytest.raises(OutOfPatience):
        first_calls(Variant(endless, patience=0.05), CPU)


def test_the_slower_variant_takes_longer() -> None:
    """A hundred times the numbers."""
    small, large = torch.ones(10_000), torch.ones(1_000_000)
    times = interleave({"small": small.clone, "large": large.clone}, CPU, 0.05)
    assert times["small"].median < times["large"].p20 <= times["large"].median <= times["large"].p80


def test_peak_memory_counts_what_is_held_at_once() -> None:
    """Two of the three tensors exist at the same time."""
    x = torch.ones(1000)

    def run() -> torch.Tensor:
        y = x + 1
        z = y + 1
        del y
        return z + 1

    assert 2 * x.nbytes <= peak_bytes(run, CPU) < 2.1 * x.nbytes


class Products(TorchDispatchMode):
    """Counts matrix products by their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.seen[left.shape[0], left.shape[1], right.shape[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["IQL", "CQL", "TD3+BC"])
def test_an_update_makes_the_products_of_its_floor_and_no_more(name: str) -> None:
    """The floor is counted by hand; the update is watched."""
    make = {"IQL": updates.iql, "CQL": updates.cql, "TD3+BC": updates.td3_bc}[name]
    ours = make(Networks(CPU, updates.policy_outputs(name)))
    with Products() as products:
        ours(*updates.fixed_batch(CPU))
    assert products.seen == Counter(updates.products(name))


@pytest.mark.parametrize("name", list(many_runs.UPDATES))
def test_each_of_many_runs_is_the_run_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters after three updates, without noise."""
    monkeypatch.setattr(networks, "NOISE", 0.0)
    update, _ = many_runs.UPDATES[name]
    batches = [networks.fixed_batch(CPU, seed) for seed in range(3)]
    together, alone = ManyNetworks(CPU, 8, 3), [Networks(CPU, hidden=8, seed=seed) for seed in range(3)]
    step = update(together)
    for _ in range(3):
        step(*map(torch.stack, zip(*batches, strict=True)))
    for nets, batch in zip(alone, batches, strict=True):
        single = update(nets)
        for _ in range(3):
            single(*batch)
    for part in ("policy", "value", "slow_policy"):
        for layer, weight in enumerate(getattr(together, part).weights):
            expected = torch.stack([getattr(nets, part).layers[layer].weight.T for nets in alone])
            torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-5)
    for k, stack in enumerate(together.critics.networks):
        expected = torch.stack([nets.critics.networks[k].layers[1].weight.T for nets in alone])
        torch.testing.assert_close(stack.weights[1], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("work", list(updates.workloads(CPU)), ids=lambda work: work.name)
def test_the_usual_style_has_the_same_losses(work: Workload) -> None:
    """Same weights, same batch, same algorithm."""
    made = work.variants(CPU)
    ours, usual = made["eager"](), made["corl"]()
    assert usual.tolerance is not None
    assert agree(usual.run(), ours.run(), usual.tolerance)


def test_the_loops_compute_what_the_functions_do() -> None:
    """Which the timing cannot check: it hands them a part of the data."""
    reward, done = cases.episodes(20_000, CPU)
    arrays = reward.numpy(), done.numpy()
    expected = offline_losses.discounted_return(reward, done, discount=cases.DISCOUNT)
    torch.testing.assert_close(torch.from_numpy(cases.loop_returns(*arrays)), expected, rtol=1e-4, atol=1e-4)
    kept = offline_losses.return_filter(reward, done, fraction=cases.FRACTION)
    assert torch.equal(torch.from_numpy(cases.loop_filter(*arrays)), kept)


def row(variant: str, median: float, **fields: Any) -> Measurement:
    """An update of a machine that does not exist."""
    times = {"median_us": median, "p20_us": 0.9 * median, "p80_us": 1.2 * median}
    where = {"machine": "A Machine", "device": "cpu", "threads": 1}
    return Measurement(**{"group": "update", "name": "IQL", "mode": "update", "shape": "batch 256", "floor_us": 700.0,
                          "elements": 256, "first_s": 1.0, "variant": variant, **times, **where, **fields})  # fmt: skip


@pytest.fixture
def rows() -> list[Measurement]:
    """One function and one update, with a peer that is faster."""
    function = {"group": "grid", "name": "squared_loss", "mode": MODES[1], "shape": "[4194304]"}
    function |= {"floor_us": 200.0, "elements": summary.LARGE}
    return [
        row("eager", 900.0, **function),
        row("fused", 300.0, **function, warm_s=0.25),
        row("eager", 900.0),
        row("compiled", 800.0),
        row("jax", 750.0, note="a peer"),
        replace(row("torchrl", 1.0), median_us=None, p20_us=None, p80_us=None, status="skipped: not installed"),
    ]


def test_promises_are_kept_missed_or_not_measured(rows: list[Measurement]) -> None:
    kept = {verdict.promise: verdict.kept for verdict in summary.verdicts(rows)}
    assert kept["IQL: compiled ≤ 1.3 × its matrix products"] is True
    assert kept["IQL: jitted JAX ÷ compiled ≥ 1"] is False
    assert kept["IQL: CORL style ÷ compiled ≥ 1.6"] is None
    assert kept["element-wise losses of 4M numbers, forward and backward ≤ 2 × a copy"] is True


def test_a_card_has_promises_of_its_own(rows: list[Measurement]) -> None:
    kept = {verdict.promise: verdict.kept for verdict in summary.verdicts([replace(x, device="cuda") for x in rows])}
    assert kept["IQL, batch 256: one compiled update ≤ 0.2 ms"] is False
    assert kept["IQL, batch 256: jitted JAX ÷ compiled ≥ 1"] is False
    assert kept["IQL, batch 256, TF32: jitted JAX ÷ compiled ≥ 1"] is None
    assert "IQL: compiled ≤ 1.3 × its matrix products" not in kept


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_jitted_update_runs_where_ours_does(device: str) -> None:
    """JAX is asked for on a card too."""
    found = {name: peers.of_update(name, torch.device(device), 0.1) for name in ("IQL", "CQL", "TD3+BC")}
    assert [name for name, peers in found.items() if "jax" in peers] == ["IQL", "TD3+BC"]


def test_a_later_run_replaces_the_work_that_it_measured(rows: list[Measurement]) -> None:
    """With all its variants, since they are compared with each other; the rest stays where it was."""
    later = [row("compiled", 100.0), row("eager", 200.0, name="CQL")]
    assert merged(rows, later) == [*rows[:2], *later]


def test_what_we_lose_is_found(rows: list[Measurement]) -> None:
    assert [(loss.row.name, loss.winner) for loss in summary.losses(rows)] == [("IQL", "jax")]


def test_rows_survive_the_file(rows: list[Measurement], tmp_path: Path) -> None:
    write_csv(rows, tmp_path / "rows.csv")
    assert read_csv(tmp_path / "rows.csv") == rows


def test_the_page_is_made_of_the_files(rows: list[Measurement], tmp_path: Path) -> None:
    """With a figure, the promises, and the work that we lose."""
    pytest.importorskip("matplotlib")
    from benchmarks import report

    write_csv(rows, tmp_path / "results" / "a-machine.csv")
    text = report.write_report(tmp_path / "results", tmp_path).read_text()
    assert "## A Machine" in text
    assert "| `IQL` batch 256 | 800 | 750 | jax | 1.07 |" in text
    assert "| IQL, A Machine |  | 0.9 | 0.8 | 0.8 | 0.7 |" in text
    assert "**Compiling does not help" not in text
    assert "skipped: not installed" in text
    assert (tmp_path / "benchmarks" / "a-machine-updates.svg").exists()


def test_a_head_over_a_vocabulary_is_held_to_its_goals(rows: list[Measurement], tmp_path: Path) -> None:
    """A ratio that misses its goal is marked, one that was not measured is empty, and so is its time."""
    pytest.importorskip("matplotlib")
    from benchmarks import projection, report

    write_csv(rows, tmp_path / "results" / "a-machine.csv")
    key = {"machine": "A Machine", "torch": "2.13.0", "dtype": "float32", "size": "256", "rows": "64"}
    for variant, seconds in (("linear_log_prob", 1.5), ("linear_cql_penalty", 0.9), ("cross_entropy", 1.0)):
        measured = {"variant": variant, "seconds": seconds, "excess_mib": 8.4}
        projection.keep(tmp_path / "results" / "projection" / "a-machine.csv", {**key, **measured})
    late = {"variant": "linear_cross_entropy", "note": "more than 240 s"}
    projection.keep(tmp_path / "results" / "projection" / "a-machine.csv", {**key, **late})
    text = report.write_report(tmp_path / "results", tmp_path).read_text()
    measured = "1.50 s<br>8 MiB | 0.90 s<br>8 MiB | 1.00 s<br>8 MiB | more than 240 s"
    assert f"| float32 [64, 256]: 64 states of 256 numbers | {measured} |" in text
    assert "| `linear_log_prob` ÷ `cross_entropy` | ≤ 1.0 | **1.50** |" in text
    assert "| `linear_cql_penalty` ÷ `cross_entropy` | ≤ 1.0 | 0.90 |" in text
    assert "| `linear_cql_penalty` ÷ `linear_cross_entropy` | ≤ 0.75 |  |" in text


def test_an_update_that_compiling_does_not_help_is_told(rows: list[Measurement], tmp_path: Path) -> None:
    """With the share of its time that is matrix products."""
    pytest.importorskip("matplotlib")
    from benchmarks import report

    slow = [row("eager", 1000.0, name="CQL"), row("compiled", 990.0, name="CQL")]
    write_csv([*rows, *slow], tmp_path / "results" / "a-machine.csv")
    text = " ".join(report.write_report(tmp_path / "results", tmp_path).read_text().split())
    assert "**Compiling does not help the CQL update here**: compiled it takes 0.99 of eager's time" in text
    assert "at least 70 % are matrix products" in text


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    """One function, from the command line to the file."""
    flags = ["--filter", "squared_loss [256] forward+", "--sizes", "256", "--json", str(tmp_path / "rows.json")]
    flags += ["--cache", cache_dir()]  # the usual one, so that this takes seconds
    subprocess.run([sys.executable, "-m", "benchmarks", *flags], cwd=ROOT, check=True, capture_output=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["variant"] for row in rows} == {"eager", "compile", "fused", "torch"}
    assert all(row["status"] == "ok" and row["median_us"] > 0 for row in rows)
