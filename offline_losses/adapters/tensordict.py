"""One adapter for every function: its per-sample arguments come from a TensorDict by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_type_hints

try:
    from tensordict import TensorDictBase
except ImportError as _error:
    raise ImportError(
        'offline_losses.adapters.tensordict needs tensordict. Install it with `pip install "offline-losses[data]"`.'
    ) from _error
from torch import Tensor

from offline_losses.adapters.keys import KEYS, Entry

Result = TypeVar("Result")


def on_tensordict(fn: Callable[..., Result]) -> Callable[..., Result]:
    """Returns `fn` as a function of a TensorDict: required tensors are looked up by their names.

    The returned `call(data, **overrides)` fetches each **required** tensor argument of `fn` that is
    not overridden, through the table `offline_losses.adapters.keys.KEYS`. Optional tensors (`mask`,
    `weight`, a bootstrap value, ...) are never picked up silently, since their presence changes
    what is computed: name them. An override is

    - a key (a string or a tuple of strings), where the argument takes a tensor: that entry is used;
    - anything else, knobs and tensors alike: it is passed on as it is.

    An entry that is one number for each sample loses TorchRL's trailing axis, `[*batch, 1]` ->
    `[*batch]`, and `[B, T, 1]` -> `[B, T]` where the batch size counts the first axis alone;
    observations, actions and candidates keep their axes, and so do tensors that are passed as
    overrides.

    Args:
        fn: any function of per-sample tensors, such as `offline_losses.bellman_target`.

    Returns:
        A function `call(data, **overrides)` that returns what `fn` returns.

    **Gradient**: fetched tensors are used as they are, so gradients are those of `fn`.

    Raises:
        ValueError: a required tensor is neither in the table nor given, or its entry is not in
            `data`, or the entry is not a tensor.
        TypeError: an override that `fn` has no argument for, or `data` is not a TensorDict.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from offline_losses import discounted_return
        >>> step = TensorDict({"reward": torch.ones(3, 1), "done": torch.tensor([[0], [0], [1]]) > 0}, [3])
        >>> on_tensordict(discounted_return)(TensorDict({"next": step}, [3]), discount=0.5)
        tensor([1.7500, 1.5000, 1.0000])
    """
    name = getattr(fn, "__name__", repr(fn))
    parameters = inspect.signature(fn).parameters
    hints = get_type_hints(fn)
    tensors = [p for p in parameters if (_takes_tensor(hints[p]) if p in hints else p in KEYS)]
    required = [p for p in tensors if parameters[p].default is inspect.Parameter.empty]

    def call(data: TensorDictBase, **overrides: Any) -> Result:
        if not isinstance(data, TensorDictBase):
            raise TypeError(
                f"{name}: data: expected a TensorDict, got {type(data).__name__}. "
                "Call the function itself on plain tensors."
            )
        unknown = sorted(set(overrides) - set(parameters))
        if unknown:
            raise TypeError(
                f"{name}: {unknown[0]}: expected one of the arguments {list(parameters)}, got "
                f"{unknown[0]!r}. Correct the name, or leave the override out."
            )
        arguments = dict(overrides)
        for parameter in tensors:
            if _is_key(overrides.get(parameter)):
                entry = Entry(overrides[parameter], parameter in KEYS and KEYS[parameter].scalar)
            elif parameter in overrides or parameter not in required:
                continue
            else:
                entry = _table_entry(name, parameter)
            arguments[parameter] = _fetch(data, entry, name, parameter)
        return fn(**arguments)

    call.__name__ = name
    call.__doc__ = f"`{name}` on a TensorDict; see `on_tensordict`.\n\n{fn.__doc__ or ''}"
    return call


def _takes_tensor(hint: Any) -> bool:
    """Tells tensors from knobs such as `reduction`, whose strings are no keys."""
    return Tensor in (hint, *get_args(hint))


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(part, str) for part in value)
    return isinstance(value, str)


def _table_entry(name: str, parameter: str) -> Entry:
    entry = KEYS.get(parameter)
    if entry is not None and entry.key is not None:
        return entry
    table = ", ".join(f"{name} -> {entry.key!r}" for name, entry in KEYS.items() if entry.key)
    raise ValueError(
        f"{name}: {parameter}: expected a tensor or a key of the data, got nothing, and no key is "
        f"known for that name; the table is {{{table}}}. "
        f"Pass {parameter}=<tensor> or {parameter}=<key>."
    )


def _fetch(data: TensorDictBase, entry: Entry, name: str, parameter: str) -> Tensor:
    value = data.get(entry.key, None)
    if value is None:
        present = sorted(map(str, data.keys(include_nested=True, leaves_only=True)))
        raise ValueError(
            f"{name}: {parameter}: expected the entry {entry.key!r} in the data, got the entries "
            f"{present}. Compute and store it first, or pass {parameter}=<tensor or another key>."
        )
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name}: {parameter}: expected a tensor at {entry.key!r}, got {type(value).__name__}. "
            f"Name a leaf of it, {parameter}=<key>, or pass {parameter}=<tensor>."
        )
    if entry.scalar and value.ndim > data.batch_dims and value.shape[-1] == 1:
        return value.squeeze(-1)
    return value
