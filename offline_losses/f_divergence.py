r"""How far one distribution is from another by a convex function of their ratio, and the ratio that a price buys.

A divergence $D_f = \mathbb E_{x \sim \mu}[f(w(x))]$ of ratios $w = \pi / \mu$ is told by $f$. Its convex conjugate
$f^*(y) = \max_{w \ge 0} w y - f(w)$ is what a reward of $y$ for each unit of ratio is worth at best, and its slope
$f^{*\prime}(y)$ is the ratio that attains it. Take all three of one divergence: losses of `dice` are made of the
conjugate, and their policies of the slope. Ratios are never negative, of whichever divergence.

$$\begin{aligned}
\text{kl:}\quad & f = w \log w, & f^* &= e^{y - 1}, & f^{*\prime} &= e^{y - 1} \\
\text{chi\_square:}\quad & f = \tfrac12 (w - 1)^2, & f^* &= \tfrac12 \operatorname{relu}(y + 1)^2 - \tfrac12,
& f^{*\prime} &= \operatorname{relu}(y + 1) \\
\text{soft\_chi\_square:}\quad & f = \tfrac12 (w - 1)^2, & f^* &= y + \tfrac12 y^2, & f^{*\prime} &= y + 1 \\
& f = w \log w - w + 1 \text{ if } w < 1, & f^* &= e^y - 1 \text{ if } y < 0, & f^{*\prime} &= e^y \text{ if } y < 0
\end{aligned}$$
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_float, check_knob, check_option, check_tail
from offline_losses._core.exponential import above_tangent, up_to
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, reduce, select, upcast

Divergence: TypeAlias = Literal["kl", "chi_square", "soft_chi_square"]


@public
def f_divergence_penalty(
    ratio: Tensor,
    *,
    divergence: Divergence = "soft_chi_square",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""How far a distribution is from the one that drew the data, from the ratio of their densities at each sample.

    $$f(w), \qquad \mathbb E_\mu\left[ f\!\left( \tfrac{\pi}{\mu} \right) \right] = D_f(\pi \,\|\, \mu)$$

    with $f$ by `divergence` as above. The mean is the divergence if that of the ratios is one.

    Args:
        ratio: `[*batch]`, $w$, at least 0; `dice_weights` are such ratios.
        divergence: `"kl"`, `"chi_square"` or `"soft_chi_square"`.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. Infinite for a negative ratio.

    Gradient:
        `ratio`, but none at 0 where its slope is infinite, nor below; `weight` is detached.

    Raises:
        ValueError: shapes that differ, another divergence, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> f_divergence_penalty(torch.tensor([0.0, 1.0, 3.0]), divergence="soft_chi_square", reduction="none")
        tensor([1., 0., 2.])

    Reference:
        Csiszár, Information-Type Measures of Difference of Probability Distributions, Studia Scientiarum Mathematicarum
        Hungarica 2, 1967; Lee et al., OptiDICE, arXiv:2106.10783 (soft-χ²).
    """
    check_float("f_divergence_penalty", ratio=ratio)
    check_tail("f_divergence_penalty", ratio.shape, ratio.shape, mask, weight, reduction, denominator)
    check_divergence("f_divergence_penalty", divergence)
    w = select(mask, upcast(ratio))
    f = _entropic(w) if divergence == "kl" else (w - 1).square() / 2
    if divergence == "soft_chi_square":
        f = torch.where(w < 1, _generalized(w), f)
    return reduce(torch.where(w < 0, torch.inf, f), mask, weight, reduction, denominator)


@public
def f_conjugate(y: Tensor, *, divergence: Divergence = "soft_chi_square", max_exponent: Knob = 20.0) -> Tensor:
    r"""What a reward for each unit of ratio is worth at best, once the divergence that the ratio costs is paid.

    $$f^*(y) = \max_{w \ge 0}\ w y - f(w)$$

    in closed form as above. It is convex and never falls; below, it costs no more than the divergence of
    taking nothing, $f^*(-\infty) = -f(0)$.

    Args:
        y: `[*batch]`, reward over the price of divergence.
        divergence: `"kl"`, `"chi_square"` or `"soft_chi_square"`.
        max_exponent: where the exponential of `"kl"` becomes a line, so that the ratio is bounded; in (0, 50]. The
            others' exponents are negative.

    Returns:
        `[*batch]`, in the dtype of `y`.

    Gradient:
        `y`, of which it is `dice_weights(y)`, and `max_exponent` if it is a tensor.

    Raises:
        ValueError: another divergence, `max_exponent` out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> f_conjugate(torch.tensor([-2.0, 0.0, 2.0]), divergence="chi_square")
        tensor([-0.5000,  0.0000,  4.0000])

    Reference:
        Nachum and Dai, Reinforcement Learning via Fenchel-Rockafellar Duality, arXiv:2001.01866. Public code has other
        pairs: see [Lineage](../lineage/f_divergence.md#f_conjugate).
    """
    check_float("f_conjugate", y=y)
    check_divergence("f_conjugate", divergence)
    check_knob("f_conjugate", "max_exponent", max_exponent, 0.0, 50.0, "(]", [y.shape])
    return conjugate(upcast(y), divergence, max_exponent).to(y.dtype)


@public
def dice_weights(
    advantage: Tensor,
    *,
    divergence: Divergence = "soft_chi_square",
    temperature: Knob = 1.0,
    max_exponent: Knob = 20.0,
) -> Tensor:
    r"""How much more often the best policy within reach takes a step than the data: the ratio that its advantage buys.

    $$w = f^{*\prime}\!\left( \frac{e}{T} \right), \qquad e = r + \gamma V' - V$$

    with the slope of the conjugate as above. They are the policy's weights in `nll_loss` after
    `opti_dice_loss`, of the same divergence, temperature and bound.

    Args:
        advantage: `[*batch]`, $e$, or a network's estimate of its mean over next states.
        divergence: `"kl"`, `"chi_square"` or `"soft_chi_square"`.
        temperature: $T$, units of reward; positive. It divides: the price of a unit of divergence.
        max_exponent: the largest exponent of `"kl"`; in (0, 50].

    Returns:
        `[*batch]`, at least 0, in the advantage's dtype, detached.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: another divergence, a knob out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> dice_weights(torch.tensor([-2.0, 0.0, 2.0]), divergence="chi_square")
        tensor([0., 1., 3.])

    Reference:
        Lee et al., OptiDICE: Offline Policy Optimization via Stationary Distribution Correction Estimation,
        arXiv:2106.10783; Ma, Shen, Jayaraman and Bastani, SMODICE, arXiv:2202.02433. See
        [Lineage](../lineage/f_divergence.md#dice_weights).
    """
    check_float("dice_weights", advantage=advantage)
    check_divergence("dice_weights", divergence)
    check_price("dice_weights", temperature, max_exponent, advantage.shape)
    y = upcast(advantage.detach()) / temperature
    if divergence == "kl":
        w = up_to(y - 1, max_exponent)[0].exp()
    elif divergence == "chi_square":
        w = (y + 1).clamp(min=0)
    else:
        w = torch.where(y < 0, y.clamp(max=0).exp(), y + 1)
    return w.detach().to(advantage.dtype)


def conjugate(y: Tensor, divergence: Divergence, max_exponent: Knob) -> Tensor:
    if divergence == "kl":
        z, beyond = up_to(y - 1, max_exponent)
        return z.exp() * (1 + beyond)
    if divergence == "chi_square":
        y = clamped(y, -1.0)
        return y + y.square() / 2
    low, high = torch.where(y < 0, y, 0.0), torch.where(y < 0, 0.0, y)
    near = clamped(low, -0.25)  # e^y - 1 has no digits there
    return torch.where(low == near, above_tangent(near) + near, low.exp() - 1) + high + high.square() / 2


def check_price(function: str, temperature: Knob, max_exponent: Knob, batch: torch.Size) -> None:
    check_knob(function, "temperature", temperature, 0.0, shapes=[batch])
    check_knob(function, "max_exponent", max_exponent, 0.0, 50.0, "(]", [batch])


def check_divergence(function: str, divergence: Divergence) -> None:
    check_option(function, "divergence", divergence, ("kl", "chi_square", "soft_chi_square"))


def _entropic(w: Tensor) -> Tensor:
    """$w \\log w$, at zero, where its slope is infinite, without a gradient."""
    none = w <= 0
    return torch.where(none, 0.0, w * torch.where(none, 1.0, w).log())


def _generalized(w: Tensor) -> Tensor:
    """$w \\log w - w + 1$, which near one is a square that the difference has no digits of."""
    none = w <= 0
    u = torch.where(none, 1.0, w).log()
    return torch.where(none, 1 - w, torch.where(u > -0.25, w * above_tangent(-u), w * u - w + 1))
