r"""Reductions over critics, and the slow copy that they are bootstrapped from.

A maximum over actions seeks out the errors of a critic; the smallest of several does not follow the errors of one, and
a slow copy keeps the target still while the critic moves. An ensemble is an axis, the first one: `[E, *batch]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from offline_losses._core.checks import Knob, check_critics, check_index, check_knob
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import upcast


@public
def ensemble_min(q: Tensor) -> Tensor:
    r"""Smallest of the critics: a pessimistic value (clipped double Q-learning for two, SAC-N for N).

    $$\min_{e} Q_e(s, a)$$

    Args:
        q: `[E, *batch]`, critics first.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `q`, to the smallest critic of each sample; equals share it.

    Raises:
        ValueError: no critic axis, or an empty one.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> ensemble_min(torch.tensor([[1.0, 5.0], [2.0, 4.0]]))
        tensor([1., 4.])

    Reference:
        Fujimoto, van Hoof and Meger, Addressing Function Approximation Error in Actor-Critic Methods (TD3),
        arXiv:1802.09477, equation 10. SAC, CQL and IQL take it over.
    """
    check_critics("ensemble_min", q=q)
    return q.amin(0)


@public
def ensemble_mean(q: Tensor) -> Tensor:
    r"""Average of the critics: the least noisy value, with no pessimism.

    $$\frac1E \sum_{e} Q_e(s, a)$$

    Args:
        q: `[E, *batch]`, critics first.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `q`.

    Raises:
        ValueError: no critic axis, or an empty one.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> ensemble_mean(torch.tensor([[1.0, 5.0], [2.0, 4.0]]))
        tensor([1.5000, 4.5000])

    Reference:
        Chen, Wang, Zhou and Ross, Randomized Ensembled Double Q-Learning (REDQ), arXiv:2101.05982, algorithm 1 (policy
        step).
    """
    check_critics("ensemble_mean", q=q)
    return upcast(q).mean(0)


@public
def ensemble_mix(q: Tensor, *, lambda_: Knob = 0.75) -> Tensor:
    r"""Between the smallest and the largest critic: λ = 1 is the minimum, λ = 0 the maximum.

    $$\lambda \min_{e} Q_e(s, a) + (1 - \lambda) \max_{e} Q_e(s, a)$$

    Args:
        q: `[E, *batch]`, critics first.
        lambda_: $\lambda$ in [0, 1], the weight of the minimum.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `q`, and `lambda_` if it is a tensor.

    Raises:
        ValueError: no critic axis, or an empty one; `lambda_` out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> ensemble_mix(torch.tensor([[1.0, 5.0], [2.0, 4.0]]), lambda_=0.75)
        tensor([1.2500, 4.2500])

    Reference:
        Fujimoto, Meger and Precup, Off-Policy Deep Reinforcement Learning without Exploration (BCQ), arXiv:1812.02900,
        equation 13.
    """
    check_critics("ensemble_mix", q=q)
    check_knob("ensemble_mix", "lambda_", lambda_, 0.0, 1.0, "[]", [q.shape[1:]])
    critics = upcast(q)
    return (lambda_ * critics.amin(0) + (1 - lambda_) * critics.amax(0)).to(q.dtype)


@public
def ensemble_subset_min(q: Tensor, index: Tensor) -> Tensor:
    r"""Smallest of a few of the critics (REDQ): less pessimistic than the smallest of all, and another few each time.

    $$\min_{e \in \mathcal M} Q_e(s, a)$$

    Args:
        q: `[E, *batch]`, critics first.
        index: int64 `[M]`, which critics; `torch.randperm(E)[:2]` draws two. All of them give `ensemble_min`.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `q`, to the smallest chosen critic of each sample; equals share it.

    Raises:
        ValueError: no critic axis, an empty index, or one that is not a vector.
        TypeError: not a tensor, integer values, an index that is not int64.
        IndexError: a critic that does not exist (on a card: a failed assertion).

    Examples:
        >>> import torch
        >>> ensemble_subset_min(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 2]))
        tensor([2.])

    Reference:
        Chen, Wang, Zhou and Ross, Randomized Ensembled Double Q-Learning (REDQ), arXiv:2101.05982, algorithm 1 (the
        target).
    """
    check_critics("ensemble_subset_min", q=q)
    check_index("ensemble_subset_min", "index", index, "critic")
    return q.index_select(0, index).amin(0)


@torch.no_grad()
@public
def polyak_update_(
    target: nn.Module | Iterable[Tensor], online: nn.Module | Iterable[Tensor], *, polyak: Knob = 0.005
) -> None:
    r"""Move the slow copy a little towards the online network, in place: a larger `polyak` follows faster.

    $$\bar\theta \leftarrow \bar\theta + \rho\,(\theta - \bar\theta)$$

    Parameters and floating-point buffers (running statistics) are averaged, other buffers (counters) are copied. Keep
    the copy of a bfloat16 network in float32, `copy.deepcopy(online).float()`: in 16 bits most steps are rounded away
    and the copy stops on the way, of which a warning tells.

    Args:
        target: the slow copy: a module, or tensors.
        online: the network that is trained: a module of the same structure, or tensors of the same shapes.
        polyak: $\rho$ in [0, 1]; 0 leaves the target as it is, 1 copies the online network exactly. Where the share
            that is *kept* is called polyak (0.995, say), pass one minus it: 0.995 here forgets the copy in one step.
            Or `[R]`, one for each run, if every parameter has the runs first, `[R, ...]`.

    Returns:
        None; `target` is changed.

    Gradient:
        None: runs without autograd.

    Raises:
        ValueError: another number of tensors, shapes that differ, `polyak` out of range or of other runs.
        TypeError: not modules or tensors.

    Examples:
        >>> import torch
        >>> slow, fast = [torch.zeros(2)], [torch.ones(2)]
        >>> polyak_update_(slow, fast, polyak=0.25); slow
        [tensor([0.2500, 0.2500])]

    Reference:
        Lillicrap et al., Continuous Control with Deep Reinforcement Learning (DDPG), arXiv:1509.02971, algorithm 1
        (soft update of the target network).
    """
    check_knob("polyak_update_", "polyak", polyak, 0.0, 1.0, "[]", [getattr(polyak, "shape", torch.Size())])
    targets, onlines = _tensors("target", target), _tensors("online", online)
    if [tensor.shape for tensor in targets] != [tensor.shape for tensor in onlines]:
        raise ValueError(
            f"polyak_update_: target: expected the {len(onlines)} tensors and the shapes of online, got {len(targets)} "
            f"tensors with shapes {[list(tensor.shape) for tensor in targets]}. Make it with copy.deepcopy(online)."
        )
    pairs = [pair for pair in zip(targets, onlines, strict=True) if pair[0].is_floating_point()]
    if pairs:
        slow, fast = [pair[0] for pair in pairs], [pair[1].to(pair[0].dtype) for pair in pairs]
        if not torch.compiler.is_compiling():
            _warn_of_standstill(slow, polyak)
        weight = [_beside(polyak, tensor) for tensor in slow] if isinstance(polyak, Tensor) else polyak
        torch._foreach_lerp_(slow, fast, weight)  # exact at both ends, and where the two are equal
    for slow_buffer, fast_buffer in zip(targets, onlines, strict=True):
        if not slow_buffer.is_floating_point():
            slow_buffer.copy_(fast_buffer)


def _beside(polyak: Tensor, parameter: Tensor) -> Tensor:
    """One number, or one for each run, beside a parameter whose first axis is that of the runs."""
    if not polyak.ndim:
        return polyak.to(parameter)
    if polyak.shape != parameter.shape[:1]:
        expected = "shape [], or [R] beside parameters [R, ...] of R runs"
        got = f"shape {list(polyak.shape)} beside a parameter of shape {list(parameter.shape)}"
        refuse(
            ValueError,
            "polyak_update_",
            "polyak",
            expected,
            got,
            "Stack the parameters of the runs, or pass one number.",
        )
    return polyak.to(parameter).view(-1, *[1] * (parameter.ndim - 1))


def _warn_of_standstill(slow: list[Tensor], polyak: Knob) -> None:
    """Say that a copy in 16 bits stays more than a hundredth of its size away from what it follows."""
    if isinstance(polyak, Tensor) or polyak == 0:
        return
    for dtype in {x.dtype for x in slow} & {torch.bfloat16, torch.float16}:
        if torch.finfo(dtype).eps / 2 > polyak / 100:
            warnings.warn(
                f"polyak_update_: target: expected float32 parameters, got {dtype}, in which a step of {polyak:g} of "
                f"the distance is rounded away: the copy stops far from online. Make it with "
                f"copy.deepcopy(online).float().",
                stacklevel=5,  # the caller's line, behind both decorators
            )


def _tensors(argument: str, source: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(source, nn.Module):
        return [*source.parameters(), *source.buffers()]
    tensors = list(source) if isinstance(source, Iterable) and not isinstance(source, Tensor) else [source]
    if isinstance(source, Tensor) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError(
            f"polyak_update_: {argument}: expected a torch.nn.Module or a list of tensors, got {describe(source)}. "
            f"Pass the module itself, or list(module.parameters())."
        )
    return tensors
