"""Random updates, composed of the habits of one-file code, and random changes between their calls."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import offline_losses as ol

CALLS = 12
SIZE, WIDTH, BATCH = 3, 4, 6

HABITS: dict[str, tuple[str, ...]] = {
    "holder": ("object", "module", "closure", "dataclass", "partial", "callable"),
    "network": ("mlp", "linear", "dropout", "batch norm", "layer norm", "two heads"),
    "loss": ("squared", "expectile", "huber", "bellman", "weighted", "mse", "critics"),
    "optimizer": (
        "Adam",
        "AdamW",
        "SGD",
        "momentum",
        "RMSprop",
        "NAdam",
        "RAdam",
        "Adamax",
        "Adadelta",
        "Adagrad",
        "AMSGrad",
        "foreach",
        "fused",
        "groups",
        "two",
        "custom",
    ),
    "clearing": ("before", "after", "by hand", "module", "to zero", "closure"),
    "stepping": ("each", "every second", "first only", "twice"),
    "clipping": ("none", "norm", "value", "by hand"),
    "averaging": ("none", "polyak", "by hand", "copy"),
    "schedule": ("none", "outside", "inside", "by hand inside"),
    "precision": ("full", "autocast", "scaler"),
    "noise": ("none", "normal", "uniform", "permutation", "python", "numpy", "generator"),
    "batch": ("tensors", "dictionary", "object", "replay", "numpy replay", "iterator"),
    "metrics": ("tensors", "item", "nothing", "appended", "rate", "gradient norm", "tuple", "parameter", "stored"),
    "counter": ("none", "attribute", "nested", "list", "argument", "optimizer"),
}
"""What one-file updates do; the first word of each line is the plainest."""

CHANGES = (
    "nothing",
    "learning rate",
    "freeze",
    "thaw",
    "evaluation",
    "dropout",
    "setting",
    "load network",
    "assign network",
    "load optimizer",
    "clear optimizer",
    "other slow network",
    "other parameter",
    "other optimizer",
    "new group",
    "smaller batch",
    "larger batch",
    "forward replaced",
    "hook",
    "parameter hook",
    "step hook",
    "betas",
    "weight decay",
    "gradient left",
    "gradients cleared",
    "data replaced",
    "parameter filled",
    "switch",
    "number",
    "momentum reset",
)
"""What happens between two calls."""


@dataclass(frozen=True)
class Program:
    """Habits that differ from the plainest, and what changes before which call."""

    habits: dict[str, str] = field(default_factory=dict)
    changes: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, habit: str) -> str:
        return self.habits.get(habit, HABITS[habit][0])


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Two to four habits and up to three changes."""
    names = draw(st.lists(st.sampled_from(sorted(HABITS)), min_size=2, max_size=4, unique=True))
    habits = {name: draw(st.sampled_from(HABITS[name])) for name in names}
    times = draw(st.lists(st.integers(1, CALLS - 1), max_size=3, unique=True))
    return Program(habits, {time: draw(st.sampled_from(CHANGES)) for time in sorted(times)})


class Net(nn.Module):
    """A small network, with one head or two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(SIZE, WIDTH), nn.Tanh())
        if kind == "linear":
            self.body = nn.Sequential(nn.Linear(SIZE, WIDTH))
        if kind == "dropout":
            self.body.append(nn.Dropout(0.3))
        if kind == "batch norm":
            self.body.append(nn.BatchNorm1d(WIDTH))
        if kind == "layer norm":
            self.body.append(nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, 1)
        self.other = nn.Linear(WIDTH, 1)
        self.both = kind == "two heads"
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """`[B]`."""
        y = self.body(x)
        out = self.head(y) + self.other(y) if self.both else self.head(y)
        return self.scale * out.squeeze(-1)


class Lion(torch.optim.Optimizer):
    """An optimizer of one's own, which counts in Python."""

    def __init__(self, parameters: Any, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Signs of a moving average, smaller with each step."""
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    average.lerp_(p.grad, 0.1)
                    p.add_(average.sign(), alpha=-group["lr"] / self.count)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, 1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, 1e-2),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5, centered=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-2),
    "RAdam": lambda p: torch.optim.RAdam(p, 1e-2),
    "Adamax": lambda p: torch.optim.Adamax(p, 1e-2),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "AMSGrad": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True, weight_decay=0.1, maximize=False),
    "foreach": lambda p: torch.optim.Adam(p, 1e-2, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, 1e-2, fused=True),
    "custom": lambda p: Lion(p, 1e-2),
}


class World:
    """Everything that an update reads and changes, the same for each run of one program."""

    def __init__(self, program: Program) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.program = program
        self.net = Net(program["network"]).double()
        self.slow = deepcopy(self.net).requires_grad_(False)
        kind = program["optimizer"]
        make = OPTIMIZERS.get(kind, OPTIMIZERS["Adam"])
        if kind == "groups":
            first, rest = self.net.body.parameters(), [*self.net.head.parameters(), *self.net.other.parameters()]
            self.optimizer = torch.optim.Adam([{"params": first, "lr": 1e-3}, {"params": rest, "weight_decay": 0.1}])
        else:
            self.optimizer = make(self.net.parameters())
        self.value = nn.Linear(SIZE, 1).double()
        self.value_optimizer = OPTIMIZERS["SGD"](self.value.parameters())
        self.scheduler = None
        if program["schedule"] in ("inside", "outside"):
            step = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)
            self.scheduler = step
            if kind == "Adam":
                self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 2e-2, total_steps=10 * CALLS)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=program["precision"] == "scaler")
        self.scales = program["precision"] == "scaler"
        self.cfg = SimpleNamespace(expectile=0.7, discount=0.9, polyak=0.1, inner=SimpleNamespace(weight=1.0))
        self.switch = False
        self.count, self.history, self.stored = 0, [], None
        self.nested = {"count": 0}
        self.generator = torch.Generator().manual_seed(1)
        rows = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(2)).double()
        self.rows, self.array = rows, rows.numpy().copy()
        self.stream = iter(rows.split(BATCH - 1))
        self.modules = [self.net, self.slow, self.value]

    # --- the update ---------------------------------------------------------------------------------------------

    def draw(self, batch: Any) -> Tensor:
        """The batch, wherever it comes from."""
        kind = self.program["batch"]
        if kind == "dictionary":
            return batch["x"]
        if kind == "object":
            return batch.x
        if kind == "replay":
            index = torch.randint(0, len(self.rows), (BATCH,))
            return self.rows[index]
        if kind == "numpy replay":
            index = np.random.randint(0, len(self.array), BATCH)
            return torch.from_numpy(self.array[index])
        if kind == "iterator":
            x = next(self.stream, None)
            return self.rows[:BATCH] if x is None else x
        return batch

    def noise(self, x: Tensor) -> Tensor:
        """The batch with noise of some kind."""
        kind = self.program["noise"]
        if kind == "normal":
            return x + 0.1 * torch.randn_like(x)
        if kind == "uniform":
            return x + torch.rand(SIZE, dtype=x.dtype)
        if kind == "permutation":
            return x[torch.randperm(len(x))] + x
        if kind == "python":
            return x * (1 + random.random()) if random.random() < 0.5 else x[random.sample(range(len(x)), 2)]
        if kind == "numpy":
            return x + float(np.random.rand())
        if kind == "generator":
            return x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return x

    def loss(self, x: Tensor, expectile: Any) -> Tensor:
        """A loss of the network against the slow one."""
        kind = self.program["loss"]
        y = x.sum(-1)
        prediction = self.net(x)
        if kind == "expectile":
            return ol.expectile_loss(prediction, target=self.slow(x) + y, expectile=expectile)
        if kind == "huber":
            return ol.huber_loss(prediction, target=y)
        if kind == "bellman":
            target = ol.bellman_target(y, self.slow(x), x[:, 0] > 0.5, discount=self.cfg.discount)
            return ol.squared_loss(prediction, target=target)
        if kind == "weighted":
            return ol.squared_loss(prediction, target=y, weight=ol.awr_weights(y - prediction, temperature=0.5))
        if kind == "mse":
            return mse_loss(prediction, y) if not self.switch else (prediction - y).abs().mean()
        if kind == "critics":
            both = torch.stack([prediction, self.value(x).squeeze(-1)])
            return ol.squared_loss(both, target=y + ol.ensemble_min(both).detach())
        return self.cfg.inner.weight * ol.squared_loss(prediction, target=y)

    def clear(self) -> None:
        """Gradients away, in some manner."""
        kind = self.program["clearing"]
        if kind == "by hand":
            for p in self.net.parameters():
                p.grad = None
        elif kind == "module":
            self.net.zero_grad()
        else:
            self.optimizer.zero_grad(set_to_none=kind != "to zero")

    def take_step(self) -> None:
        """Clip and step."""
        clipping = self.program["clipping"]
        if self.scales:
            self.scaler.unscale_(self.optimizer)
        if clipping == "norm":
            self.history.append(nn.utils.clip_grad_norm_(self.net.parameters(), 0.5).detach())
            del self.history[:-3]
        if clipping == "value":
            nn.utils.clip_grad_value_(self.net.parameters(), 0.1)
        if clipping == "by hand":
            for p in self.net.parameters():
                if p.grad is not None:
                    p.grad.mul_(0.5)
        if self.scales:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    def learn(self, batch: Any, expectile: Any = 0.7, number: int = 0) -> Any:
        """One update."""
        p = self.program
        counter = p["counter"]
        if counter == "attribute":
            self.count += 1
        if counter == "nested":
            self.nested["count"] += 1
        if counter == "optimizer":
            self.optimizer.count = getattr(self.optimizer, "count", 0) + 1
        if counter == "list":
            self.history.append(len(self.history))
        turn = {"attribute": self.count, "nested": self.nested["count"], "argument": number}.get(counter, 0)
        x = self.noise(self.draw(batch))
        if p["clearing"] == "closure" and not self.scales:
            return self.by_closure(x, expectile)
        clears_first = p["clearing"] != "after" and (p["stepping"] != "every second" or turn % 2 == 0)
        if clears_first:
            self.clear()
        if p["precision"] == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (
                    self.loss(x.float(), expectile)
                    if self.net.head.weight.dtype == torch.float32
                    else self.loss(x, expectile)
                )
        else:
            loss = self.loss(x, expectile)
        if p["optimizer"] == "two":
            self.value_optimizer.zero_grad()
            loss = loss + (self.value(x).squeeze(-1) - self.net(x)).square().mean()
        if p["counter"] != "none" and p["noise"] == "none":
            loss = loss * (1 + 0.01 * (turn % 3))
        (self.scaler.scale(loss) if self.scales else loss).backward()
        if not (p["stepping"] == "every second" and turn % 2 == 0) and not (p["stepping"] == "first only" and turn > 4):
            self.take_step()
            if p["stepping"] == "twice" and not self.scales:
                self.take_step()
            if p["optimizer"] == "two":
                self.value_optimizer.step()
            if p["clearing"] == "after":
                self.clear()
        if p["schedule"] == "inside" and self.scheduler is not None:
            self.scheduler.step()
        if p["schedule"] == "by hand inside":
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * 0.9
        self.average(turn)
        return self.report(loss)

    def by_closure(self, x: Tensor, expectile: Any) -> Any:
        """The optimizer asks for the loss itself."""

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(x, expectile)
            loss.backward()
            return loss

        loss = self.optimizer.step(closure)
        return None if loss is None else {"loss": loss}

    def average(self, turn: int) -> None:
        """The slow network."""
        kind = self.program["averaging"]
        if kind == "polyak":
            ol.polyak_update_(self.slow, self.net, polyak=self.cfg.polyak)
        if kind == "by hand":
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    slow.mul_(1 - self.cfg.polyak).add_(self.cfg.polyak * fast)
        if kind == "copy" and turn % 3 == 0:
            self.slow.load_state_dict(self.net.state_dict())

    def report(self, loss: Tensor) -> Any:
        """What the update returns."""
        kind = self.program["metrics"]
        if kind == "nothing":
            return None
        if kind == "item":
            return {"loss": loss.item(), "count": self.count}
        if kind == "appended":
            self.history.append(loss.detach())
            return loss
        if kind == "rate":
            return {"loss": loss, "rate": self.optimizer.param_groups[0]["lr"]}
        if kind == "gradient norm":
            grads = [p.grad.norm() for p in self.net.parameters() if p.grad is not None]
            return {"norm": torch.stack(grads).norm()} if grads else {}
        if kind == "tuple":
            return loss, [loss.detach() * 2, {"three": 3}]
        if kind == "parameter":
            return {"bias": self.net.head.bias, "first": self.net.head.weight[0, 1], "loss": loss.detach()}
        if kind == "stored":
            self.stored = loss.detach()
            return {"stored": self.stored}
        return {"loss": loss}

    # --- how it is called ---------------------------------------------------------------------------------------

    def bound(self) -> Callable[..., Any]:
        """The update in some container."""
        kind = self.program["holder"]
        if kind == "module":
            holder = ModuleAgent(self)
            return holder.learn
        if kind == "closure":
            learn, loops = self.learn, [0]

            def update(batch: Any, **named: Any) -> Any:
                loops[0] += 1
                return learn(batch, **named)

            return update
        if kind == "dataclass":
            return DataAgent(self, [self.optimizer]).learn
        if kind == "partial":
            return functools.partial(World.learn, self)
        if kind == "callable":
            return Callable_(self)
        return self.learn

    def batch(self, call: int) -> Any:
        """The argument of a call."""
        size = {"smaller batch": BATCH - 2, "larger batch": BATCH + 3}.get(self.program.changes.get(call, ""), BATCH)
        x = torch.randn(size, SIZE, generator=torch.Generator().manual_seed(100 + call)).double()
        x = x.to(self.net.head.weight.dtype)
        kind = self.program["batch"]
        return {"x": x} if kind == "dictionary" else SimpleNamespace(x=x) if kind == "object" else x

    def state(self) -> list[Any]:
        """All that has to agree."""
        found: list[Any] = []
        for module in self.modules:
            found += [x.detach() for x in (*module.parameters(), *module.buffers())]
        for optimizer in (self.optimizer, self.value_optimizer):
            places = {p: i for group in optimizer.param_groups for i, p in enumerate(group["params"])}
            for _, held in sorted(optimizer.state.items(), key=lambda item: places.get(item[0], -1)):
                found += [value for _, value in sorted(held.items())]
            for group in optimizer.param_groups:
                found += [value for key, value in sorted(group.items()) if key != "params"]
            found.append(getattr(optimizer, "count", None))
        found += [self.count, list(self.history), self.nested["count"], self.stored, self.scaler.get_scale()]
        found.append(None if self.scheduler is None else self.scheduler.last_epoch)
        found += [torch.get_rng_state(), self.generator.get_state(), random.getstate()[1], np.random.get_state()[1]]
        return found


class ModuleAgent(nn.Module):
    """An agent that is a module."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.net, self.slow = world, world.net, world.slow
        self.calls = 0

    def learn(self, batch: Any, **named: Any) -> Any:
        """One update, counted."""
        self.calls += 1
        return self.world.learn(batch, **named)


@dataclass
class DataAgent:
    """An agent that is a dataclass."""

    world: World
    optimizers: list[Any]

    def learn(self, batch: Any, **named: Any) -> Any:
        """One update."""
        return self.world.learn(batch, **named)


class Callable_:
    """An object that is called."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, batch: Any, **named: Any) -> Any:
        return self.world.learn(batch, **named)


def change(world: World, kind: str) -> None:
    """Do it."""
    net, optimizer = world.net, world.optimizer
    group = optimizer.param_groups[0]
    if kind == "learning rate":
        group["lr"] = group["lr"] * 0.5
    elif kind == "freeze":
        net.body[0].requires_grad_(False)
    elif kind == "thaw":
        net.body[0].requires_grad_(True)
    elif kind == "evaluation":
        net.train(not net.training)
    elif kind == "dropout":
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.6
    elif kind == "setting":
        world.cfg.expectile, world.cfg.discount, world.cfg.polyak = 0.9, 0.5, 0.3
    elif kind == "number":
        world.cfg.inner.weight += 0.5
        net.scale *= 1.1
    elif kind == "switch":
        world.switch, net.both = not world.switch, not net.both
    elif kind == "load network":
        net.load_state_dict({key: x + 0.1 for key, x in net.state_dict().items()})
    elif kind == "assign network":
        net.load_state_dict({key: x.clone() + 0.1 for key, x in net.state_dict().items()}, assign=True)
    elif kind == "load optimizer":
        optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    elif kind == "clear optimizer":
        optimizer.state.clear()
    elif kind == "momentum reset":
        for held in optimizer.state.values():
            for key, x in held.items():
                if isinstance(x, Tensor) and x.dim():
                    held[key] = torch.zeros_like(x)
    elif kind == "other slow network":
        world.slow = deepcopy(net).requires_grad_(False)
        world.modules[1] = world.slow
    elif kind == "other parameter":
        net.head.bias = nn.Parameter(net.head.bias.detach() + 0.5)
    elif kind == "other optimizer":
        if world.program["optimizer"] not in ("groups", "two"):
            world.optimizer = OPTIMIZERS[world.program["optimizer"]](net.parameters())
    elif kind == "new group":
        if len(optimizer.param_groups) < 3 and world.program["optimizer"] != "two" and world.scheduler is None:
            optimizer.add_param_group(
                {"params": [*world.value.parameters()]}
                if not any(
                    p is q for g in optimizer.param_groups for p in g["params"] for q in world.value.parameters()
                )
                else {"params": []}
            )
    elif kind == "forward replaced":
        net.head.forward = lambda y: nn.functional.linear(y, net.head.weight) * 2  # type: ignore[method-assign]
    elif kind == "hook":
        net.head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    elif kind == "parameter hook":
        net.head.weight.register_hook(lambda gradient: gradient * 2)
    elif kind == "step hook":
        optimizer.register_step_post_hook(lambda *_: net.head.bias.data.clamp_(-0.1, 0.1))
    elif kind == "betas":
        if "betas" in group:
            group["betas"] = (0.5, 0.9)
    elif kind == "weight decay":
        if "weight_decay" in group:
            group["weight_decay"] = 0.2
    elif kind == "gradient left":
        net(torch.ones(BATCH, SIZE).to(net.head.weight.dtype)).sum().backward()
    elif kind == "gradients cleared":
        optimizer.zero_grad()
    elif kind == "data replaced":
        net.head.weight.data = torch.full_like(net.head.weight, 0.5)
    elif kind == "parameter filled":
        with torch.no_grad():
            net.head.weight.fill_(0.25)


def run(program: Program, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> list[list[Any]]:
    """State and result after each call; an exception of the update itself ends it and counts as its result."""
    world = World(program)
    step = wrap(world.bound())
    trail = []
    for call in range(CALLS):
        change(world, program.changes.get(call, "nothing"))
        named: dict[str, Any] = {}
        if program["loss"] == "expectile":
            named["expectile"] = 0.5 + 0.03 * call
        if program["counter"] == "argument":
            named["number"] = call
        try:
            result = step(world.batch(call), **named)
        except Exception as error:
            trail.append([type(error).__name__, *snapshot(world.state())])
            break
        if program["schedule"] == "outside" and world.scheduler is not None:
            world.scheduler.step()
        trail.append(snapshot([result, *world.state()]))
    return trail


def snapshot(x: Any) -> Any:
    """A copy that later calls leave alone."""
    if isinstance(x, Tensor):
        return x.detach().clone()
    if isinstance(x, (list, tuple)):
        return [snapshot(value) for value in x]
    if isinstance(x, dict):
        return {key: snapshot(value) for key, value in x.items()}
    return deepcopy(x)


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding, types included."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        exact = not one.is_floating_point()
        return one.equal(other) if exact else torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 + 1e-4 * abs(one)
    return type(one) is type(other) and bool(one == other)


def first_difference(program: Program, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> str | None:
    """Where a wrapped update departs from the update itself, or None."""
    expected, actual = run(program, lambda update: update), run(program, wrap)
    for call, (one, other) in enumerate(zip(expected, actual, strict=False)):
        if not same(one, other):
            places = [i for i, pair in enumerate(zip(one, other, strict=False)) if not same(*pair)]
            return f"call {call}, places {places}: {one[places[0]]} became {other[places[0]]}"
    return None if len(expected) == len(actual) else f"{len(actual)} calls in place of {len(expected)}"
