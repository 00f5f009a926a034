"""The probes of what PyTorch does not document, and what is read through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.optim import SGD
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from offline_losses._compile import private
from offline_losses._compile.private import Names

pytestmark = pytest.mark.skipif(private.CALL.missing() is not None, reason="a name is missing")


def test_names_are_found_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each: a module, what it holds, and what that holds; another name is an attribute that is not there."""
    names = Names(module="torch.nn", kind="torch.nn:Linear", method="torch.nn:Linear.forward")
    assert (names.module, names.kind, names.method) == (nn, nn.Linear, nn.Linear.forward)
    assert names.missing() is None
    monkeypatch.setattr(private, "_find", lambda path: pytest.fail(f"{path} is looked for again"))
    assert (names.module, names.kind) == (nn, nn.Linear)
    with pytest.raises(AttributeError, match="other"):
        names.other  # noqa: B018


@pytest.mark.parametrize("path", ["torch.nowhere", "torch:nothing", "torch.nn:Linear.nothing"])
def test_a_missing_name_is_a_reason(path: str) -> None:
    """It stands with the version, whichever part of the path is not there."""
    names = Names(there="torch:nn", gone=path)
    assert names.missing() == f"PyTorch {torch.__version__} has no {path if ':' in path else path + ':'}".replace(
        ":", "."
    )
    with pytest.raises(private.Missing):
        names.gone  # noqa: B018


class Watching(TorchDispatchMode):
    """Sees operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_who_wants_to_see_operators() -> None:
    """A transform, a level of forward-mode differentiation, and a dispatch mode; and no one else."""
    seen: list[tuple[bool, bool]] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append((private.is_transforming(), private.wants_operators()))
        return x

    look(torch.ones(1))
    torch.func.vmap(look)(torch.ones(1))
    with forward_ad.dual_level():
        look(torch.ones(1))
    with Watching():
        look(torch.ones(1))
    look(torch.ones(1))
    assert seen == [(False, False), (True, True), (False, True), (False, True), (False, False)]


def test_a_version_that_does_not_tell_may_be_transforming(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be safe."""
    monkeypatch.delattr(torch._C, "_are_functorch_transforms_active")
    assert private.is_transforming()


def test_the_inside_of_a_compiled_graph() -> None:
    """If it says what that is."""
    assert private.callable_inside(len) is len
    assert private.callable_inside(type("Compiled", (), {"current_callable": staticmethod(len)})()) is len


def test_marks_of_a_compiler_are_taken_off() -> None:
    """From those that have one."""
    marked, plain = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    marked._dynamo_static_input_type = "guarded"  # type: ignore[attr-defined]
    private.forget_static([marked, plain])
    assert vars(marked) == vars(plain) == {}


def test_hooks_of_an_optimizer() -> None:
    """Its own and those of all, before a step and after it."""
    one, other = (SGD([nn.Parameter(torch.zeros(1))], 0.1) for _ in range(2))
    assert not private.hooks_of_optimizer(one)
    for register in (
        one.register_step_pre_hook,
        one.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        hook = register(lambda *_: None)
        assert private.hooks_of_optimizer(one)
        assert private.hooks_of_optimizer(other) == (register.__name__.startswith("register_optimizer"))
        hook.remove()
        assert not private.hooks_of_optimizer(one)


def test_hooks_of_a_gradient() -> None:
    """Of one parameter among several, of either kind."""
    one, other = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    assert not private.has_gradient_hooks([one, other])
    for register in (other.register_hook, other.register_post_accumulate_grad_hook):
        hook = register(lambda *_: None)
        assert private.has_gradient_hooks([one, other])
        hook.remove()
        assert not private.has_gradient_hooks([one, other])


def test_writes_into_a_tensor_are_counted() -> None:
    """Each of them."""
    x = torch.zeros(2)
    before = private.version(x)
    x.add_(1)
    assert private.version(x) == before + 1
