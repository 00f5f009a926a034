"""Steps of Adam and of gradient descent as a compiler likes them, with every number a tensor that may change."""

from __future__ import annotations

import torch
from torch import Tensor

Number = float | Tensor
Tensors = list[Tensor]


def adam(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    max_exp_avg_sqs: Tensors,
    steps: Tensors,
    *,
    lr: Tensor,
    beta1: Number,
    beta2: Number,
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    decoupled_weight_decay: bool,
) -> None:
    """Adam and AdamW, with bias corrections in double precision as the optimizer itself computes them.

    The function of PyTorch that can be traced takes them from the step in single precision.
    """
    exact = _precision(params)
    torch._foreach_add_(steps, 1)
    step = torch.stack(steps).to(lr.dtype)
    # in one tensor, which the compiler computes once; as it stands it would take the powers anew for every element
    scales = torch.stack([-lr / (1 - beta1**step), (1 - beta2**step).sqrt()]).to(exact)
    step_sizes, corrections = scales[0].unbind(), scales[1].unbind()
    if maximize:
        grads = list(torch._foreach_neg(grads))
    if weight_decay and decoupled_weight_decay:
        torch._foreach_mul_(params, (1 - lr * weight_decay).to(exact))
    elif weight_decay:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    changes = torch._foreach_sub(grads, exp_avgs)
    torch._foreach_mul_(changes, _as(exact, 1 - beta1))
    torch._foreach_add_(exp_avgs, changes)
    squares = torch._foreach_mul(grads, grads)
    torch._foreach_mul_(squares, _as(exact, 1 - beta2))
    torch._foreach_mul_(exp_avg_sqs, _as(exact, beta2))
    torch._foreach_add_(exp_avg_sqs, squares)
    if amsgrad:
        torch._foreach_maximum_(max_exp_avg_sqs, exp_avg_sqs)
    denominators = torch._foreach_sqrt(max_exp_avg_sqs if amsgrad else exp_avg_sqs)
    torch._foreach_div_(denominators, corrections)
    torch._foreach_add_(denominators, eps)
    updates = torch._foreach_div(exp_avgs, denominators)
    torch._foreach_mul_(updates, step_sizes)
    torch._foreach_add_(params, updates)


def sgd(
    params: Tensors,
    grads: Tensors,
    buffers: Tensors,
    *,
    lr: Tensor,
    momentum: Number,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Gradient descent, with momentum where there are buffers for it."""
    exact = _precision(params)
    if maximize:
        grads = list(torch._foreach_neg(grads))
    if weight_decay:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    if buffers:
        torch._foreach_mul_(buffers, _as(exact, momentum))
        torch._foreach_add_(buffers, grads, alpha=1 - dampening)
        grads = (
            list(torch._foreach_add(grads, torch._foreach_mul(buffers, _as(exact, momentum)))) if nesterov else buffers
        )
    torch._foreach_add_(params, torch._foreach_mul(grads, (-lr).to(exact)))


def _precision(params: Tensors) -> torch.dtype:
    """In which a number is multiplied with the parameters: a 0-d tensor of doubles would make loops of doubles."""
    return torch.float64 if any([p.dtype == torch.float64 for p in params]) else torch.float32  # noqa: C419


def _as(dtype: torch.dtype, number: Number) -> Number:
    return number.to(dtype) if isinstance(number, Tensor) else number
