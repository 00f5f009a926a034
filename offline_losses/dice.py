r"""Values of the best policy near the data, whose errors tell how often it takes each step: DICE without a policy.

Each loss has a term of first states, $(1 - \gamma)\, V(s_0)$, and a convex function of the error of each of the data's
steps, whose slope at the minimum is the ratio of that policy's discounted visits to the data's. What `visits` says of
gradients, first states and random environments holds here too.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_knob
from offline_losses._core.errors import refuse_knob
from offline_losses._core.exponential import log_mean_exp
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce
from offline_losses.f_divergence import Divergence, check_divergence, check_price, conjugate
from offline_losses.visits import check_branches, terms


@public
def opti_dice_loss(
    value: Tensor,
    next_value: Tensor,
    initial_value: Tensor,
    reward: Tensor,
    terminated: Tensor,
    *,
    divergence: Divergence = "soft_chi_square",
    temperature: Knob = 1.0,
    discount: Knob = 0.99,
    max_exponent: Knob = 20.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Its minimizer is the value of the best policy, given a price for leaving the data; it needs none of its actions.

    $$(1 - \gamma)\, V(s_0) + T f^*\!\left( \frac e T \right), \qquad e = r + \gamma V(s') - V(s)$$

    with $V(s') = 0$ where terminated and `f_conjugate` $f^*$ of the divergence. To obtain the
    policy, clone the data with the ratios $f^{*\prime}(e / T)$ as weights, `dice_weights`.

    Args:
        value: `[*batch]`, $V(s)$ of the data's states.
        next_value: `[*batch]`, $V(s')$ of their next states.
        initial_value: `[*batch]`, $V(s_0)$ of first states.
        reward: `[*batch]`; for imitation as in `smodice_loss`.
        terminated: bool `[*batch]`, True where the environment ended.
        divergence: `"kl"`, `"chi_square"` or `"soft_chi_square"`, which has a gradient everywhere and grows slowly.
        temperature: $T$, units of reward; positive. The price of a unit of divergence; cloning as it grows.
        discount: $\gamma$ in [0, 1].
        max_exponent: where the exponential of `"kl"` becomes a line; in (0, 50].
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        All values, `reward`, and the knobs that are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, another divergence, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, flags or a mask that are not bool.

    Examples:
        >>> import torch
        >>> one, end = torch.ones(2), torch.tensor([True, True])
        >>> opti_dice_loss(torch.tensor([0.0, 9.0]), one, one, one, end, discount=0.5, reduction="none")
        tensor([ 2.0000, -0.4997])

    Reference:
        Lee, Jeon, Lee, Pineau and Kim, OptiDICE, arXiv:2106.10783: see [Lineage](../lineage/dice.md#opti_dice_loss).
    """
    values = {"value": value, "next_value": next_value, "initial_value": initial_value, "reward": reward}
    check_branches("opti_dice_loss", values, terminated, discount, mask, weight, reduction, denominator)
    check_divergence("opti_dice_loss", divergence)
    check_price("opti_dice_loss", temperature, max_exponent, value.shape)
    first, error = terms(values, terminated, discount, mask)
    worth = temperature * conjugate(error / temperature, divergence, max_exponent)
    return reduce(first + worth, mask, weight, reduction, denominator)


@public
def smodice_loss(
    value: Tensor,
    next_value: Tensor,
    initial_value: Tensor,
    reward: Tensor,
    terminated: Tensor,
    *,
    temperature: Knob = 1.0,
    discount: Knob = 0.99,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""`opti_dice_loss` with relative entropy as price, and ratios whose mean is one: to imitate states, for instance.

    $$(1 - \gamma)\, V(s_0) + T \log \frac1n \sum_i e^{e_i / T}, \qquad e = r + \gamma V(s') - V(s)$$

    with $V(s') = 0$ where terminated, over existing samples: parts of a batch do not add up to it. The ratios are
    `n * mpo_weights(e, temperature=T)`. For imitation, $r$ is a discriminator's log-odds that the state is an expert's.
    SMODICE with χ² is `opti_dice_loss`.

    Args:
        value: `[*batch]`, $V(s)$ of the data's states.
        next_value: `[*batch]`, $V(s')$ of their next states.
        initial_value: `[*batch]`, $V(s_0)$ of first states.
        reward: `[*batch]`.
        terminated: bool `[*batch]`, True where the environment ended.
        temperature: $T$, units of reward; positive. The price of a nat of divergence.
        discount: $\gamma$ in [0, 1].
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies both terms and never enters the denominator, nor the sum of exponentials.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        All values, `reward`, and the knobs that are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, flags or a mask that are not bool.

    Examples:
        >>> import torch
        >>> zero, reward, end = torch.zeros(2), torch.tensor([2.0, 6.0]).log(), torch.tensor([True, True])
        >>> smodice_loss(zero, zero, zero, reward, end).exp()
        tensor(4.)

    Reference:
        Ma, Shen, Jayaraman and Bastani, SMODICE, arXiv:2202.02433: see [Lineage](../lineage/dice.md#smodice_loss).
    """
    values = {"value": value, "next_value": next_value, "initial_value": initial_value, "reward": reward}
    check_branches("smodice_loss", values, terminated, discount, mask, weight, reduction, denominator)
    check_knob("smodice_loss", "temperature", temperature, 0.0)
    if isinstance(denominator, Tensor) and denominator.ndim:
        refuse_knob("smodice_loss", "denominator", denominator, [])
    check_knob("smodice_loss", "discount", discount, 0.0, 1.0, "[]")  # its mean is one of all runs
    first, error = terms(values, terminated, discount, mask)
    return reduce(first + temperature * log_mean_exp(error / temperature, mask), mask, weight, reduction, denominator)
