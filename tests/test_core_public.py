"""What a public function makes of a call that does not fit it."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offline_losses._core.public import _mend, public


@public
def scaled(x: Tensor, y: Tensor | None = None, *, discount: Any = 1.0, quantile: Any = 0.5) -> Any:
    """Refuses what is no number of Python's."""
    for number in (discount, quantile):
        if not isinstance(number, (float, int, Tensor)):
            raise TypeError("a number of NumPy's")
    return discount if y is None else x + y


def test_numbers_of_numpy_become_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or tensors, in a region that is compiled; vectors and what fits stay as they are."""
    x = torch.ones(2)
    found = scaled(x, discount=np.float32(0.5), quantile=np.int64(1))
    assert type(found) is float
    assert found == 0.5
    tensor = torch.tensor(0.5)
    assert scaled(x, discount=tensor, quantile=np.float32(1)) is tensor
    with pytest.raises(TypeError, match=r"^a number of NumPy's$"):
        scaled(x, discount=np.ones(1))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = scaled(x, discount=np.float32(0.5))
    assert found.dtype == torch.float64
    assert found == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.9}, "gamma: expected one of the arguments x, y, discount, quantile, got gamma. Say discount."),
        ({"tau": 0.9}, "tau: expected one of the arguments x, y, discount, quantile, got tau. Say quantile."),
        ({"quantil": 1}, "quantil: expected one of the arguments x, y, discount, quantile, got quantil. Say quantile."),
        ({"zzz": 1}, "zzz: expected one of the arguments x, y, discount, quantile, got zzz. Leave it out."),
    ],
)
def test_other_words_for_an_argument_are_known(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(f'scaled: {message}')}$"):
        scaled(torch.ones(2), **arguments)


@public
def several(first: Tensor, *, temperature: float = 1.0, polyak: float = 1.0) -> None: ...


@public
def positional(first: Tensor, second: Tensor) -> None: ...


def test_all_meanings_of_a_word_are_told() -> None:
    """Of those that the function has."""
    with pytest.raises(TypeError, match=r"got tau\. Say polyak or temperature\.$"):
        several(torch.ones(2), tau=1.0)  # type: ignore[call-arg]


def test_what_is_given_by_position_is_told_its_name() -> None:
    """The first that must be named; where all may be given by position the error is Python's own."""
    told = r"^scaled: discount: expected by name, got 3 arguments by position, of which 2 are taken\. Write discount="
    with pytest.raises(TypeError, match=told):
        scaled(torch.ones(2), torch.ones(2), 0.5)  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"positional\(\) takes 2 positional arguments but 3 were given"):
        positional(*[torch.ones(2)] * 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'second'"):
        positional(torch.ones(2))  # type: ignore[call-arg]


@public
def added(*, first: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
    """Fails where PyTorch does."""
    if second.device != first.device and second.ndim:
        raise RuntimeError("two devices")
    return first.reshape(second.shape)


def test_a_tensor_elsewhere_is_named() -> None:
    """By position too; one number on the CPU goes with all, one elsewhere does not."""
    here, there = torch.ones(2), torch.ones(2, device="meta")
    told = r"second: expected a tensor on cpu as first is, got one on meta\. Move it with second\.to\(first\.device\)\."
    with pytest.raises(ValueError, match=f"^added: {told}$"):
        added(first=here, second=there)
    with pytest.raises(RuntimeError, match="shape '\\[3\\]' is invalid"):
        added(first=here, second=torch.ones(3))
    with pytest.raises(RuntimeError, match="two devices"):
        added(first=torch.ones(()), second=there)
    with pytest.raises(ValueError, match=r"^added: third: expected a tensor on cpu as first is, got one on meta"):
        added(first=here, second=torch.ones(3), third=torch.ones((), device="meta"))

    @public
    def fails(x: Tensor, y: Tensor) -> None:
        raise RuntimeError

    with pytest.raises(ValueError, match=r"^fails: y: expected a tensor on meta as x is, got one on cpu"):
        fails(there, here)


def test_it_is_the_same_function_otherwise() -> None:
    """Where a pickle, a doctest and Dynamo look for it."""
    assert scaled.__name__ == scaled.__code__.co_name == "scaled"  # type: ignore[attr-defined]
    assert scaled.__module__ == __name__
    assert scaled.__doc__ == "Refuses what is no number of Python's."
    assert pickle.loads(pickle.dumps(scaled)) is scaled


def test_of_several_names_that_are_near_the_nearest_is_said() -> None:
    """One of them."""
    parameters = inspect.signature(lambda values, value: None).parameters
    assert _mend("alue", parameters) == "Say value."
