"""Eight runs of IQL and TD3+BC in one update, beside as many updates of one run, and beside JAX's vmap of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from benchmarks import peers
from benchmarks.networks import BATCH, CALLS, EXACT, NOISY, SEED, ManyNetworks, Networks, fixed_batch
from benchmarks.timing import Variant, Variants, Workload, product_floor
from benchmarks.updates import Update, iql, products, td3_bc
from offline_losses import compile_update

RUNS = 8
WIDTHS = (64, 256)
UPDATES: dict[str, tuple[Callable[[Networks], Update], float]] = {"IQL": (iql, EXACT), "TD3+BC": (td3_bc, NOISY)}


def title(name: str) -> str:
    """What this work is called."""
    return f"{RUNS} × {name}"


def shape(hidden: int, threads: int) -> str:
    """Networks of two hidden layers, and the batch of each run."""
    return f"{hidden}-{hidden}, batch {BATCH}" + (f", {threads} threads" if threads > 1 else "")


def workloads(device: torch.device, with_packages: bool = False) -> Iterator[Workload]:
    """Small networks, whose updates are mostly overhead, and large ones, which are mostly matrix products."""
    for (name, (ours, tolerance)), hidden in product(UPDATES.items(), WIDTHS):

        def variants(
            device: torch.device,
            name: str = name,
            ours: Callable[[Networks], Update] = ours,
            tolerance: float = tolerance,
            hidden: int = hidden,
        ) -> Variants:
            def together(compiled: bool) -> Variant:
                update = ours(ManyNetworks(device, hidden, RUNS))
                update = compile_update(update) if compiled else update
                batches = zip(*(fixed_batch(device, SEED + run) for run in range(RUNS)), strict=True)
                batch = [torch.stack(parts) for parts in batches]
                return Variant(lambda: update(*batch), tolerance=tolerance, calls=CALLS)

            def one() -> Variant:
                """Of the work, an eighth."""
                update, batch = compile_update(ours(Networks(device, hidden=hidden))), fixed_batch(device)
                return Variant(lambda: update(*batch), work=1 / RUNS, tolerance=None, calls=CALLS)

            made: Variants = {
                "eager": lambda: together(compiled=False),
                "compiled": lambda: together(compiled=True),
                "one by one": one,
            }
            if with_packages:
                made["jax"] = lambda: peers.jitted_runs(name, hidden, RUNS, device, tolerance)
            return made | {"floor": lambda: product_floor(products(name, hidden) * RUNS, device)}

        yield Workload("runs", title(name), shape(hidden, torch.get_num_threads()), "update", RUNS * BATCH, variants)
