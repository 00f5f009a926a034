"""What stands in for an optimizer while a compiled update runs, called as it is."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from comparison import close
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop
from torch.optim.lr_scheduler import StepLR

from offline_losses._compile import optimizers
from offline_losses._compile.optimizers import NO_STATE, TraceableOptimizer, Untraceable

FORMS: list[tuple[Callable[..., Optimizer], dict[str, Any]]] = [
    (Adam, {}),
    (Adam, {"amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    (AdamW, {"maximize": True}),
    (NAdam, {}),
    (RAdam, {"weight_decay": 0.1}),
    (Adamax, {}),
    (RMSprop, {"momentum": 0.5, "centered": True}),
    (RMSprop, {}),
    (Adadelta, {"lr": 0.7}),
    (SGD, {}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
]


def pair(kind: Callable[..., Optimizer], **settings: Any) -> tuple[Optimizer, Optimizer, TraceableOptimizer]:
    """Two optimizers of two groups, after a step each that is the same."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        groups = [[Parameter(torch.randn(3)), Parameter(torch.randn(2, 2))], [Parameter(torch.randn(2))]]
        made.append(kind([{"params": group} for group in groups], **{"lr": 0.1, **settings}))
        gradients(made[-1], 0)
        made[-1].step()
    return made[0], made[1], TraceableOptimizer(made[1])


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def gradients(optimizer: Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for p in parameters(optimizer):
        p.grad = torch.randn_like(p)


def same(one: Optimizer, other: Optimizer) -> None:
    for p, q in zip(parameters(one), parameters(other), strict=True):
        close(p.detach(), q.detach(), 1e-5)
        assert one.state[p].keys() == other.state[q].keys()
        for name, x in one.state[p].items():
            assert (x is None) == (other.state[q][name] is None)
            if x is not None:
                close(torch.as_tensor(x), torch.as_tensor(other.state[q][name]), 1e-5)
    for ours, theirs in zip(one.param_groups, other.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}


@pytest.mark.parametrize(("kind", "settings"), FORMS, ids=str)
def test_steps_are_the_optimizers_own(
    kind: Callable[..., Optimizer], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both groups, with one gradient missing, and with settings that change in between."""
    eager, other, stand_in = pair(kind, **settings)
    for step in range(1, 5):
        for optimizer in (eager, other):
            gradients(optimizer, step)
            if step == 2:
                parameters(optimizer)[1].grad = None
            if step == 3:
                optimizer.param_groups[1]["lr"] = 0.05
                for name, value in (("betas", (0.7, 0.95)), ("momentum", 0.3)):
                    if optimizer.param_groups[0].get(name) and kind not in (NAdam, RAdam):  # which take numbers alone
                        optimizer.param_groups[0][name] = value
        eager.step()
        stand_in.refresh()
        stand_in.stand_in()
        with monkeypatch.context() as traced:  # in code that is not, most of these forms refuse the CPU
            traced.setattr(torch.compiler, "is_compiling", lambda: True)
            assert other.step() is None
        assert isinstance(other.param_groups[0]["lr"], Tensor)
        stand_in.stand_back()
        same(eager, other)
        assert not {"step", "zero_grad"} & set(vars(other))


def test_a_closure_gives_the_loss_with_its_gradients() -> None:
    """Also where none are recorded."""
    _, optimizer, stand_in = pair(SGD)
    stand_in.refresh()
    stand_in.stand_in()
    p = parameters(optimizer)[0]
    p.grad = None

    def closure() -> Tensor:
        loss = p.sum()
        loss.backward()
        return loss

    before = p.detach().clone()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss == before.sum()
    close(p.detach(), before - 0.1, 1e-6)
    assert stand_in.stepped


def test_gradients_are_cleared_as_they_are_told() -> None:
    """To none, or to zero, and whether any were before the first step."""
    for to_none in (True, False):
        _, optimizer, stand_in = pair(SGD)
        stand_in.refresh()
        stand_in.stand_in()
        parameters(optimizer)[1].grad = None
        kept = parameters(optimizer)[0].grad
        optimizer.zero_grad(set_to_none=to_none)
        found = [p.grad for p in parameters(optimizer)]
        assert [x is None for x in found] == [to_none, True, to_none]
        assert to_none or (found[0] is kept and not found[0].any())  # type: ignore[union-attr]
        assert stand_in.cleared is to_none
    stand_in.step()
    stand_in.zero_grad()
    assert not stand_in.cleared
    assert parameters(optimizer)[0].grad is None


@pytest.mark.parametrize(("kind", "moved"), [(Adam, "meta"), (SGD, "cpu")])
def test_counts_move_to_where_their_parameter_is(kind: Callable[..., Optimizer], moved: str) -> None:
    """And no other state does."""
    p = Parameter(torch.ones(1, device="meta"))
    optimizer = kind([p], lr=0.1)
    name = "step" if kind is Adam else "momentum_buffer"
    optimizer.state[p] = {"exp_avg": torch.ones(1), name: torch.ones(())}
    stand_in = TraceableOptimizer(optimizer)
    stand_in.refresh()
    assert optimizer.state[p]["exp_avg"].device.type == "cpu"
    assert optimizer.state[p][name].device.type == moved
    assert stand_in.groups[0].state[-1][0] is optimizer.state[p][name]


@pytest.mark.parametrize(("kind", "dtype"), [(Adam, torch.float32), (NAdam, torch.float64)])
def test_counts_are_doubles_where_the_form_is_pytorchs(
    kind: Callable[..., Optimizer], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its settings; what it has written into them is written back."""
    _, optimizer, stand_in = pair(kind)
    given: list[dict[str, Any]] = []

    def form(params: list[Tensor], grads: list[Tensor], *state: list[Tensor], **settings: Any) -> None:
        assert {x.dtype for x in state[-1]} == {dtype}
        assert {x.dtype for x in state[0]} == {torch.float32}
        for x in state[-1]:
            x.fill_(9)
        given.append(settings)

    if kind is Adam:
        monkeypatch.setattr(optimizers, "adam", form)
    stand_in.function = form
    gradients(optimizer, 1)
    stand_in.refresh()
    stand_in.step()
    assert [("capturable" in settings) for settings in given] == [kind is NAdam] * 2
    assert all(optimizer.state[p]["step"] == 9 for p in parameters(optimizer))


def test_what_cannot_be_traced_is_refused() -> None:
    """With its reason; a scheduler's step is no other one."""
    p = [Parameter(torch.ones(1))]
    with pytest.raises(Untraceable, match="Adagrad has no form that can be traced"):
        TraceableOptimizer(Adagrad(p))

    class Own(Adam):
        pass

    with pytest.raises(Untraceable, match="Own has no form"):
        TraceableOptimizer(Own(p))
    optimizer = SGD(p, 0.1)
    StepLR(optimizer, 1)
    assert TraceableOptimizer(optimizer).refresh()
    optimizer.step = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Untraceable, match="the step of SGD was replaced"):
        TraceableOptimizer(optimizer).refresh()
    optimizer = SGD(p, 0.1)
    hook = optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(Untraceable, match="SGD has hooks on its steps"):
        TraceableOptimizer(optimizer).refresh()
    hook.remove()
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(Untraceable, match="its step is differentiable"):
        TraceableOptimizer(optimizer).refresh()


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_a_first_gradient_needs_a_state(kind: Callable[..., Optimizer]) -> None:
    """Which gradient descent has with a momentum alone."""
    for settings in ({}, {"momentum": 0.9}) if kind is SGD else ({},):
        optimizer = kind([Parameter(torch.ones(1))], lr=0.5, **settings)
        stand_in = TraceableOptimizer(optimizer)
        stand_in.refresh()
        stand_in.step()  # without any gradient there is nothing to do
        gradients(optimizer, 0)
        if kind is SGD and not settings:
            stand_in.step()
            close(parameters(optimizer)[0].detach(), 1 - 0.5 * parameters(optimizer)[0].grad, 1e-6)  # type: ignore[operator]
        else:
            with pytest.raises(RuntimeError, match=NO_STATE):
                stand_in.step()


def test_only_what_is_new_is_taken_over() -> None:
    """A state, a parameter, a group, or another group in its place."""
    p, q = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = Adam([p], 0.1)
    stand_in = TraceableOptimizer(optimizer)
    assert [stand_in.refresh(), stand_in.refresh()] == [True, False]
    gradients(optimizer, 0)
    optimizer.step()
    assert [stand_in.refresh(), stand_in.refresh()] == [True, False]
    optimizer.add_param_group({"params": [q]})
    assert [stand_in.refresh(), stand_in.refresh()] == [True, False]
    assert [group.params for group in stand_in.groups] == [[p], [q]]
    first, second = stand_in.groups
    del optimizer.param_groups[1]
    assert [stand_in.refresh(), stand_in.refresh()] == [True, False]
    assert stand_in.groups == [first]
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    assert [stand_in.refresh(), stand_in.refresh()] == [True, False]
    assert second.params == [q]


def test_numbers_become_tensors_when_they_change() -> None:
    """A learning rate from the start, a new tensor for each of its values; zero and a tensor stay what they are."""
    _, optimizer, stand_in = pair(Adam, betas=(0.8, 0.9))
    group = optimizer.param_groups[0]
    stand_in.refresh()

    def lent() -> tuple[Any, Any]:
        stand_in.stand_in()
        found = group["lr"], group["betas"]
        stand_in.stand_back()
        return found

    lr, betas = lent()
    assert lr.dtype == torch.float64
    assert lr.tolist() == [0.1]
    assert betas == (0.8, 0.9)
    assert lent()[0] is lr
    assert (id(lr), 0.1) in stand_in.groups[0].stand_ins()
    group["lr"], group["betas"] = 0.2, (0.7, 0.9)
    other, betas = lent()
    assert other is not lr
    assert (lr.item(), other.item()) == (0.1, 0.2)
    assert [x.tolist() for x in betas] == [[0.7], [0.9]]
    assert lent()[1] is betas
    group["betas"] = own = [0.8, 0.9]
    assert [x.tolist() for x in lent()[1]] == [[0.8], [0.9]]
    own[0] = 0.6
    assert [x.tolist() for x in lent()[1]] == [[0.6], [0.9]]
    assert group["betas"] is own
    group["lr"] = 0.0
    assert lent()[0] == 0.0
    assert type(lent()[0]) is float
    group["lr"] = rate = torch.tensor(0.3)
    assert lent()[0] is rate is group["lr"]


def test_a_group_may_be_empty() -> None:
    """And has its rate, too."""
    optimizer = SGD([{"params": [Parameter(torch.ones(1))]}, {"params": [], "lr": 0.5}], 0.1)
    stand_in = TraceableOptimizer(optimizer)
    stand_in.refresh()
    stand_in.stand_in()
    assert optimizer.param_groups[1]["lr"].tolist() == [0.5]
    optimizer.step()
    stand_in.stand_back()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_what_the_update_sets_stays() -> None:
    """As a number, in a tuple or a list too; and `capturable` as it was, where it was."""
    _, optimizer, stand_in = pair(Adam)
    group = optimizer.param_groups[0]
    stand_in.refresh()
    group["betas"] = (0.5, 0.6)
    stand_in.groups[0].live.add("betas")
    for betas in ([torch.tensor(0.25), 0.75], (torch.tensor(0.25), 0.75)):
        stand_in.stand_in()
        group["lr"] = computed = group["lr"] * 2
        group["betas"], group["capturable"] = betas, True
        stand_in.stand_back()
        assert group["lr"] == pytest.approx(computed.item())
        assert type(group["lr"]) is float
        assert stand_in.groups[0].computed == [(group["lr"], computed)]
        assert (id(computed), group["lr"]) in stand_in.groups[0].stand_ins()
        assert group["betas"] == type(betas)([0.25, 0.75])
        assert group["capturable"] is False
    stand_in.stand_in()
    group["lr"] = 0.5
    stand_in.stand_back()
    assert group["lr"] == 0.5
    del group["capturable"]
    stand_in.held = []
    stand_in.refresh()
    stand_in.stand_in()
    group["capturable"] = True
    stand_in.stand_back()
    assert "capturable" not in group


def test_a_rate_that_the_update_sets_is_stepped_with() -> None:
    """Also as a number."""
    eager, other, stand_in = pair(Adam)
    stand_in.refresh()
    stand_in.stand_in()
    for optimizer in (eager, other):
        gradients(optimizer, 1)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    stand_in.stand_back()
    same(eager, other)


def test_methods_that_were_replaced_come_back() -> None:
    """A scheduler's, and whatever clears."""
    optimizer = SGD([Parameter(torch.ones(1))], 0.1)
    StepLR(optimizer, 1)
    optimizer.zero_grad = clears = lambda set_to_none=True: None  # type: ignore[method-assign]
    steps, stand_in = optimizer.step, TraceableOptimizer(optimizer)
    stand_in.refresh()
    stand_in.stand_in()
    assert optimizer.step == stand_in.step
    assert optimizer.zero_grad == stand_in.zero_grad
    stand_in.stand_back()
    assert optimizer.step is steps
    assert optimizer.zero_grad is clears


def test_the_form_that_can_be_traced_is_not_the_groups() -> None:
    """Whatever the group says of it; the numbers are its own."""
    stand_in = pair(NAdam)[2]
    assert stand_in.fixed == {"foreach": True, "capturable": True, "differentiable": False, "has_complex": False}
    assert not set(stand_in.fixed) & set(stand_in.arguments)
    assert {"beta1", "lr", "momentum_decay"} <= set(stand_in.arguments)
