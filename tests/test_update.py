"""`compile_update` as generated code, what it promises, what it says, and the traps that it steps around."""

from __future__ import annotations

import functools
import io
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from offline_losses import (
    awr_weights,
    compile_update,
    expectile_loss,
    fused,
    polyak_update_,
    squared_loss,
    temperature_loss,
)
from offline_losses._compile import backend, private
from offline_losses._compile.switches import switched_off

pytestmark = pytest.mark.skipif(switched_off() is not None, reason="the compiler is switched off")

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "Adam": lambda p: Adam(p, 1e-2),
    "fused Adam": lambda p: Adam(p, 1e-2, fused=True),
    "foreach AdamW": lambda p: AdamW(p, 1e-2, foreach=True),
    "SGD with momentum": lambda p: SGD(p, 1e-2, momentum=0.9),
    "Adam with a tensor rate": lambda p: Adam([{"params": p, "lr": torch.tensor(1e-2)}]),
}


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced graph itself in place of generated code: what is tested is the way there."""
    monkeypatch.setattr(backend, "compile_graph", lambda graph, inputs: graph.forward)


@pytest.fixture
def silent() -> Iterator[None]:
    """A word of warning is a failure, where a whole update can be traced."""
    if reason := private.BACKWARD.missing():
        pytest.skip(reason)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile_update")
        yield


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


class Learner:
    """A critic with a target network, and a value: two optimizers, steps in between, polyak at the end."""

    def __init__(self, optimizer: Callable[[Any], Optimizer] = OPTIMIZERS["Adam"]) -> None:
        torch.manual_seed(0)
        self.critic, self.value = nn.Linear(3, 1), nn.Linear(3, 1)
        self.slow = deepcopy(self.critic).requires_grad_(False)
        self.critic_optimizer, self.value_optimizer = (optimizer(m.parameters()) for m in (self.critic, self.value))

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step of each."""
        value_loss = expectile_loss(self.value(batch["x"]), self.slow(batch["x"]), expectile=expectile)
        self.value_optimizer.zero_grad()
        value_loss.backward()
        self.value_optimizer.step()
        critic_loss = fused.squared_loss(self.critic(batch["x"]), batch["y"] + 0.9 * self.value(batch["x"]))
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        polyak_update_(self.slow, self.critic, polyak=0.1)
        return {"value": value_loss, "critic": critic_loss, "bias": self.critic.bias, "first": self.critic.weight[0, 1]}

    def state(self) -> list[Tensor]:
        """Everything that an update changes."""
        moments = [
            x
            for optimizer in (self.critic_optimizer, self.value_optimizer)
            for held in optimizer.state.values()
            for x in held.values()
            if isinstance(x, Tensor)
        ]
        return [p.detach() for m in (self.critic, self.value, self.slow) for p in m.parameters()] + moments


def batch(seed: int, size: int = 8) -> dict[str, Tensor]:
    """Random data."""
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(size, 3, generator=generator), "y": torch.randn(size, 1, generator=generator)}


def assert_equal(one: Learner, other: Learner) -> None:
    """The same parameters and moments up to rounding."""
    for a, b in zip(one.state(), other.state(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def warned(step: Callable[..., Any], calls: list[Any]) -> list[str]:
    """What is said during these calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in calls:
            step(call)
    return [str(w.message) for w in caught if "compile_update" in str(w.message)]


@pytest.mark.usefixtures("silent")
def test_generated_code_equals_eager_over_schedules() -> None:
    """Rates by a scheduler and by hand, a hyper-parameter by argument: parameters, moments and metrics agree."""
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update)
    schedulers = [StepLR(one.critic_optimizer, 2, 0.5) for one in (eager, learner)]
    for i in range(9):
        expected, actual = (f(batch(i), expectile=0.5 + 0.05 * i) for f in (eager.update, step))
        assert list(actual) == list(expected)
        for metric in expected:
            torch.testing.assert_close(actual[metric], expected[metric].detach(), rtol=1e-5, atol=1e-6)
            assert not actual[metric].requires_grad
        for scheduler in schedulers:
            scheduler.step()
        if i == 5:
            for one in (eager, learner):
                one.value_optimizer.param_groups[0]["lr"] = 1e-3
        assert_equal(eager, learner)


@pytest.mark.usefixtures("silent", "operators")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_form_of_an_optimizer(name: str) -> None:
    """Settings that choose how eager code steps do not change what is computed, nor are they changed."""
    eager, learner = Learner(OPTIMIZERS[name]), Learner(OPTIMIZERS[name])
    step = compile_update(learner.update)
    for i in range(5):
        eager.update(batch(i))
        step(batch(i))
    assert_equal(eager, learner)
    for one, other in zip(eager.critic_optimizer.param_groups, learner.critic_optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
    assert vars(learner.critic_optimizer).keys() == vars(eager.critic_optimizer).keys()


@pytest.mark.usefixtures("silent")
def test_code_is_kept_for_the_next_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same update, traced anew, finds its code on disk, and computes the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for expected in ("fxgraph_cache_miss", "fxgraph_cache_hit"):
        torch._dynamo.reset()
        counters.clear()
        weight = nn.Parameter(torch.zeros(3))
        optimizer = SGD([weight], 0.1)

        def update(x: Tensor, weight: Tensor = weight, optimizer: Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            squared_loss(weight, x).backward()
            optimizer.step()

        step = compile_update(update)
        for _ in range(3):
            step(torch.ones(3))
        torch.testing.assert_close(weight.detach(), torch.full((3,), 1 - (1 - 0.2 / 3) ** 3))
        seen = {name for name in counters["inductor"] if name.startswith("fxgraph_cache") and "bypass" not in name}
        assert seen == {expected}, counters["inductor"]


@pytest.mark.usefixtures("silent")
def test_metrics_are_detached_and_stay() -> None:
    """What a call returned is not overwritten by later ones, a live parameter included."""
    learner = Learner()
    step = compile_update(learner.update)
    results, copies = [], []
    for i in range(5):
        results.append(step(batch(i)))
        copies.append({name: x.clone() for name, x in results[-1].items()})
    for result, copy in zip(results, copies, strict=True):
        assert all(result[name].equal(copy[name]) for name in copy)


@pytest.mark.usefixtures("silent")
def test_random_numbers_are_eager_code_s_own() -> None:
    """The generator is where eager code would have left it, and drew the same numbers."""

    def noise(compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(3))
        optimizer = SGD([weight], 0.1)
        dropout = nn.Dropout(0.5)

        def update(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            drawn = dropout(x + torch.randn_like(x)) + torch.rand(3)
            squared_loss(weight, drawn).backward()
            optimizer.step()
            return drawn

        step = compile_update(update) if compiled else update
        return [step(torch.ones(3)).detach() for _ in range(5)] + [torch.get_rng_state()]

    for one, other in zip(noise(True), noise(False), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("silent")
def test_a_smaller_last_batch_is_compiled_too() -> None:
    """Once more, for all sizes, while the first size keeps its own code."""
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update)
    for i, size in enumerate((8, 8, 8, 5, 8, 3, 7)):
        expected, actual = eager.update(batch(i, size)), step(batch(i, size))
        torch.testing.assert_close(actual["critic"], expected["critic"].detach(), rtol=1e-5, atol=1e-6)
    assert_equal(eager, learner)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("compiled", [True, False])
def test_a_checkpoint_has_the_form_of_an_eager_one(compiled: bool) -> None:
    """Learning rates are numbers again, whatever a scheduler did to them, and the next process goes on from it."""
    learner = Learner(lambda p: Adam(p, 1e-2, foreach=True))
    scheduler = OneCycleLR(learner.critic_optimizer, 2e-2, total_steps=100)
    step = compile_update(learner.update)
    for i in range(5):
        step(batch(i))
        scheduler.step()
    file = io.BytesIO()
    torch.save(learner.critic_optimizer.state_dict(), file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    assert all(type(group["lr"]) is float for group in kept["param_groups"])
    assert all(type(group["betas"][0]) is float for group in kept["param_groups"])
    again = Learner(lambda p: Adam(p, 1e-2, foreach=True))
    again.critic.load_state_dict(learner.critic.state_dict())
    again.critic_optimizer.load_state_dict(kept)
    (compile_update(again.update) if compiled else again.update)(batch(9))


class Accumulating(Learner):
    """Steps on every second call."""

    calls = 0

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One micro-batch."""
        self.calls += 1
        loss = squared_loss(self.critic(batch["x"]), batch["y"]) / 2
        loss.backward()
        if self.calls % 2 == 0:
            self.critic_optimizer.step()
            self.critic_optimizer.zero_grad()
        return {"critic": loss}


@pytest.mark.usefixtures("silent", "operators")
def test_gradients_accumulate_and_counters_count() -> None:
    """Two micro-batches to each step, told apart by a counter that the update itself moves."""
    eager, learner = Accumulating(), Accumulating()
    step = compile_update(learner.update)
    for i in range(9):
        eager.update(batch(i))
        step(batch(i))
        assert_equal(eager, learner)
        for p, q in zip(eager.critic.parameters(), learner.critic.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            torch.testing.assert_close(p.grad, q.grad)
    assert learner.calls == eager.calls == 9


@pytest.mark.usefixtures("silent")
def test_an_update_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients that the first call left do not make another graph of the later ones."""
    graphs: list[Any] = []
    monkeypatch.setattr(backend, "compile_graph", lambda graph, inputs: graphs.append(graph) or graph.forward)
    learner = Learner()
    step = compile_update(learner.update)
    for i in range(6):
        step(batch(i))
    assert len(graphs) == 1


@pytest.mark.usefixtures("silent", "operators")
@pytest.mark.parametrize("keep", [True, False])
def test_gradients_after_a_call(keep: bool) -> None:
    """Those that are cleared and stepped on are gone, unless they are asked for; those of a backward pass stay."""
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update, keep_gradients=keep)
    for i in range(4):
        eager.update(batch(i))
        step(batch(i))
    assert (learner.critic.weight.grad is not None) == keep
    if keep:
        torch.testing.assert_close(learner.critic.weight.grad, eager.critic.weight.grad)

    alone = Learner()
    backward = compile_update(lambda x: squared_loss(alone.critic(x), x[:, :1]).backward())
    for _ in range(3):
        backward(batch(0)["x"])
        assert alone.critic.weight.grad is not None
        alone.critic_optimizer.step()
        alone.critic_optimizer.zero_grad()


@pytest.mark.usefixtures("silent", "operators")
def test_gradients_cleared_by_hand_are_kept() -> None:
    """Only what its optimizer clears is sure to be cleared in the next call too."""
    eager, learner = Learner(), Learner()

    def made(one: Learner) -> Callable[[Tensor], None]:
        def update(x: Tensor) -> None:
            one.critic.zero_grad()
            squared_loss(one.critic(x), x[:, :1]).backward()
            one.critic_optimizer.step()

        return update

    plain, step = made(eager), compile_update(made(learner))
    for i in range(4):
        plain(batch(i)["x"])
        step(batch(i)["x"])
        torch.testing.assert_close(learner.critic.weight.grad, eager.critic.weight.grad)
    assert_equal(eager, learner)


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
def test_adding_to_gradients_that_were_not_kept_is_refused() -> None:
    """There is no telling what they were: an error before anything is changed, and the mend in it."""
    learner = Learner()

    def update(x: Tensor, clear: bool) -> None:
        if clear:
            learner.critic_optimizer.zero_grad()
        squared_loss(learner.critic(x), x[:, :1]).backward()
        learner.critic_optimizer.step()

    step = compile_update(update)
    for _ in range(3):
        step(batch(0)["x"], True)
    before = [x.clone() for x in learner.state()]
    with pytest.raises(RuntimeError, match=r"compile_update: gradients: .* Pass keep_gradients=True"):
        step(batch(0)["x"], False)
    assert all(a.equal(b) for a, b in zip(before, learner.state(), strict=True))
    keeping = compile_update(update, keep_gradients=True)
    for clear in (True, True, False, True):
        keeping(batch(0)["x"], clear)


@pytest.mark.usefixtures("silent", "operators")
def test_arguments_of_every_kind() -> None:
    """Arrays, objects, words and counters choose between graphs, and numbers come back as numbers."""

    class Batch:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    learner = Learner()

    def update(batch: Any, scale: float, word: str, number: int) -> dict[str, Any]:
        x = batch.x if word == "object" else torch.as_tensor(batch)
        learner.critic_optimizer.zero_grad()
        loss = scale * squared_loss(learner.critic(x), x[:, :1]) * (1 + number % 2)
        loss.backward()
        learner.critic_optimizer.step()
        return {"scale": scale, "number": number, "rate": learner.critic_optimizer.param_groups[0]["lr"], "loss": loss}

    step = compile_update(update)
    x = batch(0)["x"]
    for i in range(6):
        word = "object" if i % 2 else "array"
        result = step(Batch(x) if i % 2 else x.numpy(), 0.1 * i, word, i)
        assert (result["scale"], result["number"], result["rate"]) == (0.1 * i, i, 1e-2)
        assert type(result["scale"]) is type(result["rate"]) is float


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("if loss.detach() > 0: loss = loss * 2", "a value decides what is done in .*Use torch.where"),
        ("print('loss')", "something is printed in .*Return it and print it outside"),
        ("import random; x = x[random.sample(range(8), 4)]", "Python draws random numbers in .*Draw them with torch"),
        ("import random; x = list(x); random.shuffle(x); x = torch.stack(x[:3])", "Python draws random numbers in "),
        ("x = x * learner.generator.random()", "Python draws random numbers in .*Draw them with torch"),
        ("x = x[learner.generator.sample(range(8), 4)]", "Python draws random numbers in .*Draw them with torch"),
        ("import numpy; x = x + numpy.random.rand()", "NumPy draws random numbers in .*Draw them with torch"),
        ("learner.slow.load_state_dict(learner.critic.state_dict())", "a network is loaded inside .*polyak_update_"),
        ("scheduler.step()", "a scheduler is stepped inside in .*Step it after the update"),
        ("scaler.scale(loss)", "GradScaler looks at the gradients in .*bfloat16"),
        ("learner.kept = loss", "a tensor outlives its backward pass.*Detach"),
    ],
)
def test_what_cannot_be_one_graph_says_why(line: str, reason: str, tmp_path: Path) -> None:
    """One warning at the caller's line, which names the line of the update and the mend; and the update is right."""
    source = tmp_path / "habits.py"
    source.write_text(
        "def made(learner, scheduler, scaler, squared_loss):\n"
        "    def update(x):\n"
        "        learner.critic_optimizer.zero_grad()\n"
        "        loss = squared_loss(learner.critic(x), x[:, :1])\n"
        f"        {line}\n"
        "        loss.backward()\n"
        "        learner.critic_optimizer.step()\n"
        "        return {'loss': loss.detach()}\n"
        "    return update\n"
    )
    space: dict[str, Any] = {"torch": torch}
    exec(compile(source.read_text(), str(source), "exec"), space)
    learners = [Learner(), Learner()]
    steps = []
    for learner in learners:
        learner.generator = random.Random(0)  # type: ignore[attr-defined]
        scheduler = StepLR(learner.critic_optimizer, 2, 0.5)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        steps.append(space["made"](learner, scheduler, scaler, squared_loss))
    compiled = compile_update(steps[0])
    said: list[str] = []
    for step in (compiled, steps[1]):
        random.seed(0)
        np.random.seed(0)
        said += warned(step, [batch(i)["x"] for i in range(4)])
    assert len(said) == 1
    assert re.search(f"update is compiled in parts: {reason}", said[0]), said
    assert "habits.py, line" in said[0]
    assert_equal(*learners)


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
def test_what_changes_with_every_call_runs_eagerly() -> None:
    """After a few compilations in a row, with what it was that changed."""
    eager, learner = Learner(), Learner()

    class Agent:
        factor = 1.0

    def made(one: Learner, agent: Agent) -> Callable[[Tensor], None]:
        def update(x: Tensor) -> None:
            one.critic_optimizer.zero_grad()
            squared_loss(agent.factor * one.critic(x), x[:, :1]).backward()
            one.critic_optimizer.step()
            agent.factor *= 1.1

        return update

    said = warned(compile_update(made(learner, Agent())), [batch(i)["x"] for i in range(12)])
    warned(made(eager, Agent()), [batch(i)["x"] for i in range(12)])
    assert_equal(eager, learner)
    assert len(said) == 1
    assert "runs eagerly" in said[0]
    assert "factor" in said[0]


COUNTED = 0


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
def test_a_global_that_changes_is_named_with_its_line() -> None:
    """And the mend is one that works."""
    learner = Learner()

    def update(x: Tensor) -> None:
        global COUNTED
        COUNTED += 1
        learner.critic_optimizer.zero_grad()
        squared_loss(learner.critic(x) * (1 + COUNTED % 2), x[:, :1]).backward()
        learner.critic_optimizer.step()

    said = warned(compile_update(update), [batch(i)["x"] for i in range(12)])
    assert len(said) == 1
    line = r"\(`(COUNTED ?\+= ?1|squared_loss\(.*COUNTED.*)`\)"  # where it is changed, or where it is read
    assert re.search(rf"the global `COUNTED` changes in test_update.py, line \d+ {line} at every call", said[0])
    assert "Make it an attribute" in said[0]


@pytest.mark.usefixtures("operators")
def test_a_failed_trace_changes_nothing() -> None:
    """BatchNorm's statistics, a counter and a scheduler move once in the call whose trace fails."""

    class Counting(Learner):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
            self.calls += 1
            self.norm(batch["x"])
            metrics = super().update(batch, expectile)
            return {**metrics, "bias": torch.tensor(float(f"{metrics['critic'].item():.3f}"))}

    eager, learner = Counting(), Counting()
    step = compile_update(learner.update)
    for i in range(4):
        eager.update(batch(i))
        warned(step, [batch(i)])
        assert learner.calls == eager.calls == i + 1
        torch.testing.assert_close(learner.norm.running_mean, eager.norm.running_mean)
    assert_equal(eager, learner)


@pytest.mark.usefixtures("operators")
def test_what_an_update_writes_onto_an_optimizer_stays_there() -> None:
    """Dynamo takes note of it and never does it: such an update is compiled around that line, and told so."""

    class Annealing(Learner):
        def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
            self.critic_optimizer.updates = getattr(self.critic_optimizer, "updates", 0) + 1
            return super().update({**batch, "y": batch["y"] / self.critic_optimizer.updates}, expectile)

    eager, learner = Annealing(), Annealing()
    said = warned(compile_update(learner.update), [batch(i) for i in range(5)])
    for i in range(5):
        eager.update(batch(i))
    assert_equal(eager, learner)
    assert learner.critic_optimizer.updates == 5
    if private.BACKWARD.missing() is None:
        assert "an attribute of an optimizer is set in test_update.py, line" in said[0]


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
def test_a_failing_compiler_costs_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a whole update nor of its parts."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(backend, "compile_graph", fail)
    eager, learner = Learner(), Learner()
    said = warned(compile_update(learner.update), [batch(i) for i in range(4)])
    for i in range(4):
        eager.update(batch(i))
    assert_equal(eager, learner)
    assert len(said) == 1
    assert "no working C++ compiler" in said[0]


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler it is the update itself."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    eager, learner = Learner(), Learner()
    said = warned(compile_update(learner.update), [batch(0)])
    eager.update(batch(0))
    assert said == ["compile_update: update runs eagerly: TORCHDYNAMO_DISABLE=1 switches the compiler off."]
    assert_equal(eager, learner)


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("name", [*private.UPDATE.paths, *private.BACKWARD.paths])
def test_a_missing_name_of_pytorch_costs_speed_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says which, and the update is right."""
    for names in (private.UPDATE, private.BACKWARD):
        if name in names.paths:
            broken = private.Names(**{**names.paths, name: "torch:not_there"})
            for module in ("step", "whole", "backend", "private"):
                target = sys.modules[f"offline_losses._compile.{module}"]
                for held, value in list(vars(target).items()):
                    if value is names:
                        monkeypatch.setattr(target, held, broken)
    eager, learner = Learner(), Learner()
    said = warned(compile_update(learner.update), [batch(i) for i in range(3)])
    for i in range(3):
        eager.update(batch(i))
    assert_equal(eager, learner)
    assert len(said) == 1
    assert "not_there" in said[0]


@pytest.mark.usefixtures("silent", "operators")
def test_callables_of_every_kind() -> None:
    """A bound method, a partial and an object that is called."""
    for wrap in (lambda f: f, functools.partial, lambda f: type("Agent", (), {"__call__": lambda self, b: f(b)})()):
        eager, learner = Learner(), Learner()
        step = compile_update(wrap(learner.update))
        for i in range(4):
            eager.update(batch(i))
            step(batch(i))
        assert_equal(eager, learner)


def test_gradients_of_processes_are_exchanged(tmp_path: Path) -> None:
    """Under DistributedDataParallel the update is compiled in parts, and both processes hold the same parameters."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, warnings\n"
        "import torch\n"
        "import torch.distributed as dist\n"
        "from torch import nn\n"
        "from offline_losses import compile_update, squared_loss\n"
        "from offline_losses._compile import backend\n"
        "backend.compile_graph = lambda graph, inputs: graph.forward\n"
        "rank = int(sys.argv[1])\n"
        "dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, world_size=2)\n"
        "torch.manual_seed(0)\n"
        "net = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "def update(x):\n"
        "    optimizer.zero_grad()\n"
        "    squared_loss(net(x).squeeze(-1), x.sum(-1)).backward()\n"
        "    optimizer.step()\n"
        "step = compile_update(update)\n"
        "warnings.simplefilter('ignore')\n"
        "torch.manual_seed(rank)\n"
        "for _ in range(4):\n"
        "    step(torch.randn(8, 3))\n"
        "print(net.module.weight.tolist())\n"
    )
    command, env = [sys.executable, str(script)], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True, env=env)
        for rank in range(2)
    ]
    weights = [worker.communicate(timeout=300)[0].splitlines()[-1] for worker in workers]
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("silent", "operators")
def test_containers_among_the_arguments_are_the_callers_own() -> None:
    """What the update writes into them is there after every call."""
    learner = Learner()

    def update(batch: dict[str, Tensor], expectile: float, log: dict[str, Any]) -> None:
        log["calls"] = log.get("calls", 0) + 1
        learner.update(batch, expectile)

    step, log = compile_update(update), {}
    for i in range(4):
        step(batch(i), 0.7, log=log)
        assert log == {"calls": i + 1}


@pytest.mark.usefixtures("silent", "operators")
def test_runs_side_by_side_with_hyper_parameters_of_their_own() -> None:
    """Knobs `[R, 1]`, held or handed over, new at every call, and a dual variable: each run trains as it does alone."""
    expectiles = [torch.tensor([[0.6], [0.9]]) + 0.01 * i for i in range(5)]
    samples = torch.randn(5, 2, 8, dtype=torch.float64)
    temperature = torch.tensor([[0.5], [2.0]], dtype=torch.float64)

    def trained(compiled: bool, runs: slice) -> Tensor:
        value = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64)[runs])
        log_alpha = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64)[runs])
        optimizer = Adam([value, log_alpha], 0.1)

        def update(q: Tensor, expectile: Tensor) -> None:
            v = value.expand_as(q)
            weight = awr_weights(q - v, temperature=temperature[runs])
            loss = expectile_loss(v, q, expectile=expectile, weight=weight, denominator=8)
            optimizer.zero_grad()
            (loss + temperature_loss(log_alpha, q, target_entropy=-1.0, denominator=8)).backward()
            optimizer.step()

        step = compile_update(update) if compiled else update
        for q, expectile in zip(samples, expectiles, strict=True):
            step(q[runs], expectile[runs].double())
        return torch.cat([value, log_alpha], -1).detach()

    together = trained(True, slice(2))
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], trained(False, slice(i, i + 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("silent", "operators")
def test_a_parameter_of_two_optimizers_accumulates() -> None:
    """Neither clears, both step: the gradient grows."""

    def run(compiled: bool) -> list[float]:
        weight = nn.Parameter(torch.ones(3))
        optimizers = [SGD([weight], 0.01), SGD([weight], 0.01)]

        def update(x: Tensor) -> None:
            (weight * x).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()

        step = compile_update(update) if compiled else update
        values = []
        for _ in range(5):
            step(torch.ones(3))
            values.append(round(weight[0].item(), 5))
        return values

    assert run(True) == run(False)


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
def test_a_number_of_doubles_written_in_place_counts() -> None:
    """In generated code of PyTorch such a tensor keeps its value; the update runs without it."""
    learner, count = Learner(), torch.zeros((), dtype=torch.float64)

    def update(x: Tensor) -> None:
        count.add_(len(x))
        learner.critic_optimizer.zero_grad()
        squared_loss(learner.critic(x), x[:, :1]).backward()
        learner.critic_optimizer.step()

    said = warned(compile_update(update), [batch(i)["x"] for i in range(4)])
    assert count == 32
    assert "0-d tensor of doubles" in said[0]


def changed_run(compiled: bool, make: Callable[[Any], Optimizer], change: Callable[[Optimizer, int], Any]) -> list[Any]:
    """Parameters and settings after each call, where something happens inside the update before it steps."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = make([weight])
    calls = [0]

    def update(x: Tensor) -> None:
        change(optimizer, calls[0])
        calls[0] += 1
        optimizer.zero_grad()
        (weight * x).square().sum().backward()
        optimizer.step()

    step = compile_update(update) if compiled else update
    trail = []
    for _ in range(6):
        step(torch.ones(3))
        group = optimizer.param_groups[0]
        trail.append([weight.tolist(), {k: v for k, v in group.items() if k != "params"}, "step" in vars(optimizer)])
    return trail


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("name", ["Adam", "SGD with momentum"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", lambda i, old: 0.05),
        ("lr", lambda i, old: old * 0.9),
        ("betas", lambda i, old: (old[0] * 0.99, old[1])),
        ("momentum", lambda i, old: 0.9 * (i >= 2)),
        ("momentum", lambda i, old: 0.9 * (i != 3)),
    ],
    ids=["rate set", "rate scaled", "betas", "momentum later", "momentum paused"],
)
def test_settings_changed_inside(name: str, key: str, value: Callable[[int, Any], Any]) -> None:
    """The same parameters and the same settings, of the same types, whatever had to be said about it."""

    def change(optimizer: Optimizer, call: int) -> None:
        for group in optimizer.param_groups:
            if key in group:
                group[key] = value(call, group[key])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, actual = (changed_run(compiled, OPTIMIZERS[name], change) for compiled in (False, True))
    for one, other in zip(expected, actual, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5)
        assert one[2] == other[2]
        assert one[1].keys() == other[1].keys()
        for setting, held in one[1].items():
            assert type(held) is type(other[1][setting])
            assert held == pytest.approx(other[1][setting]) if isinstance(held, (float, tuple)) else True


@pytest.mark.usefixtures("silent", "operators")
def test_a_logged_rate_stays_what_it_was() -> None:
    """Each number has a tensor of its own."""
    learner, log = Learner(), [None] * 5

    def update(x: Tensor, call: int) -> None:
        log[call] = learner.critic_optimizer.param_groups[0]["lr"]
        learner.critic_optimizer.zero_grad()
        squared_loss(learner.critic(x), x[:, :1]).backward()
        learner.critic_optimizer.step()

    step = compile_update(update)
    for i in range(5):
        learner.critic_optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        step(batch(i)["x"], i)
    assert [round(float(rate), 4) for rate in log] == [0.1, 0.05, 0.0333, 0.025, 0.02]


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
def test_two_updates_of_the_same_parameters() -> None:
    """What one has not kept the other does not take for nothing."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], 0.01)

    def clearing(x: Tensor) -> None:
        optimizer.zero_grad()
        (weight * x).square().sum().backward()
        optimizer.step()

    def adding(x: Tensor) -> None:
        (weight * x).sum().backward()
        optimizer.step()

    one, other = compile_update(clearing), compile_update(adding)
    other(torch.ones(3))
    for _ in range(3):
        one(torch.ones(3))
    with pytest.raises(RuntimeError, match="keep_gradients=True"):
        other(torch.ones(3))


def test_a_gradient_penalty_runs_eagerly_where_it_is_not_one_graph() -> None:
    """PyTorch compiles no second derivative of a part."""
    learner = Learner()

    def update(x: Tensor) -> float:
        x = x.requires_grad_()
        gradient = torch.autograd.grad(learner.critic(x).tanh().sum(), x, create_graph=True)[0]
        learner.critic_optimizer.zero_grad()
        gradient.square().sum().backward()
        learner.critic_optimizer.step()
        print("step")
        return 0.0

    said = warned(compile_update(update), [batch(i)["x"] for i in range(4)])
    assert len(said) == 1
    assert "runs eagerly" in said[0]
    assert "differentiates a gradient" in said[0]


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
def test_new_optimizers_in_every_call_run_eagerly() -> None:
    """Said once, and no longer traced."""
    learner = Learner()

    def update(x: Tensor) -> None:
        optimizer = SGD(learner.critic.parameters(), 0.1)
        optimizer.zero_grad()
        learner.critic(x).square().mean().backward()
        optimizer.step()

    said = warned(compile_update(update), [batch(i)["x"] for i in range(12)])
    assert len(said) == 1
    assert "makes new optimizers again and again" in said[0]


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
@pytest.mark.usefixtures("operators")
def test_updates_in_several_threads() -> None:
    """Each meets its own optimizers only, and is compiled whole; they take turns, without which PyTorch crashes."""
    learners = [Learner() for _ in range(3)]
    steps = [compile_update(learner.update) for learner in learners]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(3) as pool:
            for call in range(4):
                list(pool.map(lambda step, call=call: step(batch(call)), steps))
    assert not [w for w in caught if "compile_update" in str(w.message)]
    for learner in learners[1:]:
        assert_equal(learners[0], learner)
