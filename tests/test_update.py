"""`compile_update` against the same update run eagerly: parameters, schedules, metrics, and what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from offline_losses import compile_update, expectile_loss, fused, polyak_update_, squared_loss
from offline_losses._compile.switches import switched_off
from offline_losses.update import KINDS

pytestmark = pytest.mark.skipif(switched_off() is not None, reason="the compiler is switched off")

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "Adam": lambda p: Adam(p, 1e-2),
    "fused Adam": lambda p: Adam(p, 1e-2, fused=True),
    "foreach AdamW": lambda p: AdamW(p, 1e-2, foreach=True),
    "SGD with momentum": lambda p: SGD(p, 1e-2, momentum=0.9),
    "Adam with a tensor rate": lambda p: Adam([{"params": p, "lr": torch.tensor(1e-2)}]),
}


class Learner:
    """A critic with a target network, and a value: two optimizers, steps in between, polyak at the end."""

    def __init__(self, optimizer: Callable[[Any], Optimizer] = OPTIMIZERS["Adam"]) -> None:
        torch.manual_seed(0)
        self.critic, self.value = nn.Linear(3, 1), nn.Linear(3, 1)
        self.slow = deepcopy(self.critic).requires_grad_(False)
        self.critic_optimizer, self.value_optimizer = (optimizer(m.parameters()) for m in (self.critic, self.value))
        self.calls, self.runs = 0, []

    def to(self, device: str) -> Learner:
        """Moved before the first update: parameters stay the same objects."""
        for module in (self.critic, self.value, self.slow):
            module.to(device)
        return self

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step of each."""
        self.runs.append(1)  # a list, which nobody watches: how often Python itself was here
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
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def silent() -> Any:
    """A fallback to eager is a failure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile_update")
        yield


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.usefixtures("silent")
def test_equals_eager_over_schedules(name: str) -> None:
    """Rates by a scheduler and by hand, a hyper-parameter by argument: parameters, moments and metrics agree."""
    eager, learner = Learner(OPTIMIZERS[name]), Learner(OPTIMIZERS[name])
    step = compile_update(learner.update)
    schedulers = [StepLR(one.critic_optimizer, 2, 0.5) for one in (eager, learner)]
    for i in range(9):
        expected, actual = (f(batch(i), expectile=0.5 + 0.05 * i) for f in (eager.update, step))
        assert list(actual) == list(expected)
        for metric in expected:
            torch.testing.assert_close(actual[metric], expected[metric].detach(), rtol=1e-4, atol=1e-6)
        for scheduler in schedulers:
            scheduler.step()
        if i == 5:
            for one in (eager, learner):
                one.value_optimizer.param_groups[0]["lr"] = 1e-3
        assert_equal(eager, learner)
    assert not any(p.grad is not None for p in learner.critic.parameters())
    assert (len(learner.runs), len(eager.runs)) == (2, 9)


@pytest.mark.usefixtures("silent")
def test_code_is_kept_for_the_next_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same update, traced anew, finds its code on disk, and computes the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for expected in ("fxgraph_cache_miss", "fxgraph_cache_hit"):
        counters.clear()
        eager, learner = Learner(), Learner()
        step = compile_update(learner.update)
        for seed in range(4):
            step(batch(seed))
            eager.update(batch(seed))
        assert_equal(eager, learner)
        seen = {name: count for name, count in counters["inductor"].items() if name.startswith("fxgraph_cache")}
        assert set(seen) == {expected}, seen


@pytest.mark.usefixtures("silent")
def test_metrics_are_detached_and_stay() -> None:
    """What a call returned is not overwritten by later ones, a live parameter included."""
    learner = Learner()
    step = compile_update(learner.update)
    results, copies = [], []
    for i in range(6):
        results.append(step(batch(i)))
        copies.append({name: x.clone() for name, x in results[-1].items()})
        assert not any(x.requires_grad for x in results[-1].values())
    for result, copy in zip(results, copies, strict=True):
        assert all(result[name].equal(copy[name]) for name in copy)


@pytest.mark.usefixtures("silent")
def test_weights_and_moments_may_be_loaded() -> None:
    """A checkpoint taken after compilation continues as the eager one does."""
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update)
    for i in range(4):
        eager.update(batch(i))
        step(batch(i))
    for one in (eager, learner):
        one.critic.load_state_dict({"weight": torch.ones(1, 3), "bias": torch.zeros(1)})
        one.critic_optimizer.load_state_dict(deepcopy(eager.critic_optimizer.state_dict()))
    for i in range(4, 8):
        eager.update(batch(i))
        step(batch(i))
    assert_equal(eager, learner)


@pytest.mark.usefixtures("silent")
def test_numbers_outside_are_watched() -> None:
    """A closure's number and an optimizer's setting that change are taken over."""
    eager, learner = Learner(), Learner()
    held, items = SimpleNamespace(scale=1.0), {"power": 1.0}
    factor, runs = 1.0, []

    def made(one: Learner) -> Callable[[Tensor], None]:
        def update(x: Tensor) -> None:
            runs.append(one)
            loss = sum(factor * part for part in [held.scale * items["power"] * one.critic(x).square().mean()])
            one.critic_optimizer.zero_grad()
            loss.backward()
            one.critic_optimizer.step()

        return update

    slow, step = made(eager), compile_update(made(learner))
    for i in range(12):
        slow(batch(i)["x"])
        assert step(batch(i)["x"]) is None
        if i == 3:
            factor = 3.0
        if i == 6:
            held.scale = -1.0
        if i == 8:
            items["power"] = 2.0
        if i == 10:
            for one in (eager, learner):
                one.critic_optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    assert_equal(eager, learner)
    assert runs.count(learner) == 2 + 4


step = 0  # a global with the name of a method: the update does not read it


@pytest.mark.usefixtures("silent")
def test_objects_may_be_exchanged() -> None:
    """Another target network under the same attribute, or other memory under the same parameter, is taken over."""
    global step
    eager, learner = Learner(), Learner()
    compiled = compile_update(learner.update)
    for i in range(9):
        step = i
        if i == 4:
            for one in (eager, learner):
                one.slow = deepcopy(one.critic).requires_grad_(False)
        if i == 7:
            for one in (eager, learner):
                one.critic.weight.data = torch.full((1, 3), 0.5)
        eager.update(batch(i))
        compiled(batch(i))
    assert_equal(eager, learner)
    assert len(learner.runs) == 4


@pytest.mark.usefixtures("silent")
def test_other_arguments_choose_between_updates() -> None:
    """A delayed policy update is one flag: both kinds are compiled."""
    eager, learner = Learner(), Learner()

    def made(one: Learner) -> Callable[..., Tensor]:
        def update(x: Tensor, *, both: bool) -> Tensor:
            loss = one.critic(x).square().mean() + (one.value(x).square().mean() if both else 0.0)
            for optimizer in (one.critic_optimizer, one.value_optimizer)[: 1 + both]:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (one.critic_optimizer, one.value_optimizer)[: 1 + both]:
                optimizer.step()
            return loss

        return update

    slow, step = made(eager), compile_update(made(learner))
    for i in range(10):
        expected, actual = (f(batch(i)["x"], both=i % 2 == 0) for f in (slow, step))
        torch.testing.assert_close(actual, expected.detach(), rtol=1e-4, atol=1e-6)
    assert_equal(eager, learner)


def test_too_many_combinations_run_eagerly() -> None:
    """Each of the first ones may be compiled; a word that is always another one is not, and loses no update."""
    eager, learner = Learner(), Learner()
    step = compile_update(lambda batch, *, word: learner.update(batch))
    for i in range(KINDS):
        step(batch(i), word=str(i))
    with pytest.warns(UserWarning, match=f"take more than {KINDS} forms"):
        metrics = step(batch(KINDS), word="one more")
    for i in range(KINDS + 1):
        eager.update(batch(i))
    assert not metrics["critic"].requires_grad
    assert_equal(eager, learner)


@pytest.mark.usefixtures("silent")
def test_an_optimizer_may_step_later_than_the_others() -> None:
    """The first call does not meet it; the update is traced once it has come, and no step is lost."""
    eager, learner = Learner(), Learner()

    def made(one: Learner) -> Callable[[Tensor], Tensor]:
        def update(x: Tensor) -> Tensor:
            one.runs.append(1)
            loss = (one.critic(x) + one.value(x)).square().mean()
            loss.backward()
            for optimizer in (one.critic_optimizer, one.value_optimizer)[: len(one.runs)]:
                optimizer.step()
                optimizer.zero_grad()
            return loss

        return update

    slow, step = made(eager), compile_update(made(learner))
    for i in range(6):
        torch.testing.assert_close(step(batch(i)["x"]), slow(batch(i)["x"]).detach(), rtol=1e-4, atol=1e-6)
    assert_equal(eager, learner)
    assert len(learner.runs) == 3  # as it is, traced without the later one, traced with both; then compiled


def test_new_optimizers_in_every_call_give_up() -> None:
    """What is made anew each time cannot be compiled: said once."""
    learner = Learner()

    def update(x: Tensor) -> None:
        learner.critic(x).square().mean().backward()
        SGD(learner.critic.parameters(), 0.1).step()

    step = compile_update(update)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(12):
            step(batch(i)["x"])
    reasons = [str(w.message) for w in said if "runs eagerly" in str(w.message)]
    assert reasons == [
        "compile_update: update runs eagerly: it makes new optimizers again and again; make them outside of the update."
    ]


@pytest.mark.usefixtures("silent")
def test_a_batch_may_be_strided() -> None:
    """Columns of a larger table, or rows in another order of memory."""
    eager, learner = Learner(), Learner()
    compiled = compile_update(learner.update)
    for i in range(6):
        data = batch(i)
        eager.update(data)
        compiled(
            {"x": data["x"].T.contiguous().T if i % 2 else data["x"], "y": torch.stack([data["y"]] * 2, -1)[..., 0]}
        )
    assert_equal(eager, learner)


@pytest.mark.usefixtures("silent")
def test_fresh_noise_with_every_call() -> None:
    """Random numbers inside are drawn anew, and follow the seed."""
    weight = torch.zeros(3, requires_grad=True)
    optimizer = SGD([weight], 0.1)

    def update(x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        optimizer.zero_grad()
        ((x + noise - weight) ** 2).mean().backward()
        optimizer.step()
        return noise

    step = compile_update(update)
    x = torch.zeros(3)
    drawn = [step(x) for _ in range(6)]
    assert len({tuple(noise.tolist()) for noise in drawn}) == 6
    torch.manual_seed(1)
    one = step(x)
    torch.manual_seed(1)
    assert step(x).equal(one)


def test_shapes_are_fixed() -> None:
    """A smaller last batch is refused, with what to do about it, before anything is changed."""
    learner = Learner()
    step = compile_update(learner.update)
    step(batch(0))
    before = [x.clone() for x in learner.state()]
    message = r"tensor 0 of the arguments: expected shape \[8, 3\].* got \[5, 3\].*drop the smaller last batch, or pad"
    with pytest.raises(ValueError, match=message):
        step(batch(1, size=5))
    with pytest.raises(ValueError, match=r"expected shape .* torch\.float32 on cpu .* torch\.float64"):
        step({name: x.double() for name, x in batch(1).items()})
    assert all(a.equal(b) for a, b in zip(before, learner.state(), strict=True))


def test_other_objects_are_refused() -> None:
    """An argument that can neither vary nor be a key."""
    learner = Learner()
    for wrong, name in ((batch(0)["x"].numpy(), "ndarray"), (SimpleNamespace(**batch(0)), "SimpleNamespace")):
        with pytest.raises(TypeError, match=rf"compile_update: arguments: expected tensors, .* got a {name}"):
            compile_update(learner.update)(wrong)


class Counting(Learner):
    """Counts in the update itself."""

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step, counted."""
        self.calls += 1
        return super().update(batch, expectile)


class Late(Learner):
    """Looks at a value between the gradient and its step, and clears the gradient last."""

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step of the critic."""
        loss = squared_loss(self.critic(batch["x"]), batch["y"])
        loss.backward()
        size = self.critic.weight.grad.norm().item()
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return {"critic": loss, "size": torch.tensor(size)}


class Looking(Learner):
    """Looks at a value in the update itself."""

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step, and a Python number."""
        metrics = super().update(batch, expectile)
        return {**metrics, "critic": torch.tensor(metrics["critic"].item())}


class Choosing(Learner):
    """Takes the samples above zero, as many as there are."""

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step on a part of the batch."""
        chosen = batch["x"][:, 0] > 0
        return super().update({name: x[chosen] for name, x in batch.items()}, expectile)


class Dividing(Learner):
    """Divides by how many samples lie above zero, which is a number of Python's."""

    def update(self, batch: dict[str, Tensor], expectile: float = 0.7) -> dict[str, Tensor]:
        """One step on smaller targets."""
        return super().update({**batch, "y": batch["y"] / len((batch["x"][:, 0] > 0).nonzero())}, expectile)


@pytest.mark.parametrize(
    ("kind", "optimizer", "reason"),
    [
        (Choosing, "Adam", r"it cannot be traced \(Unsupported: values decide the shape of what aten.index.Tensor"),
        (Dividing, "Adam", r"it cannot be traced \(Unsupported: values decide the shape of what aten.nonzero"),
        (Looking, "Adam", r"it cannot be traced \(RuntimeError: .*tracing tensor"),
        (Looking, "foreach AdamW", r"it cannot be traced \(RuntimeError: .*tracing tensor"),
        (Late, "Adam", r"it cannot be traced \(RuntimeError: .*tracing tensor"),
        (Counting, "Adam", "it changes self.calls itself; count outside of the update"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly(kind: type[Learner], optimizer: str, reason: str) -> None:
    """One plain sentence, once, and not one update lost or done twice."""
    eager, learner = kind(OPTIMIZERS[optimizer]), kind(OPTIMIZERS[optimizer])
    step = compile_update(learner.update)
    step(batch(0))
    with pytest.warns(UserWarning, match=f"compile_update: update runs eagerly: {reason}"):
        step(batch(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(2, 5):
            step(batch(i))
    for i in range(5):
        eager.update(batch(i))
    assert_equal(eager, learner)


def test_a_number_that_always_changes_gives_up() -> None:
    """Traced anew a few times, then eager, and right all along."""
    eager, learner = Learner(), Learner()
    factor = 1.0

    def made(one: Learner) -> Callable[[Tensor], None]:
        def update(x: Tensor) -> None:
            one.critic_optimizer.zero_grad()
            squared_loss(factor * one.critic(x), x[:, :1]).backward()
            one.critic_optimizer.step()

        return update

    slow, step = made(eager), compile_update(made(learner))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(12):
            factor = 1.0 + 0.1 * i
            slow(batch(i)["x"])
            step(batch(i)["x"])
    assert_equal(eager, learner)
    reasons = [str(w.message) for w in said if "runs eagerly" in str(w.message)]
    assert reasons == [
        "compile_update: update runs eagerly: factor, which it reads from outside its arguments, changes again and "
        "again; pass it as an argument."
    ]


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler it is the update itself."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update)
    with pytest.warns(UserWarning, match="compile_update: update runs eagerly: TORCHDYNAMO_DISABLE=1"):
        step(batch(0))
    eager.update(batch(0))
    assert_equal(eager, learner)


def test_a_failing_compiler_costs_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was traced has been done; from then on the update runs as it is."""
    import torch._inductor

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    eager, learner = Learner(), Learner()
    step = compile_update(learner.update)
    step(batch(0))
    with pytest.warns(UserWarning, match="the compiler fails with RuntimeError: no working C"):
        step(batch(1))
    step(batch(2))
    for i in range(3):
        eager.update(batch(i))
    assert_equal(eager, learner)
