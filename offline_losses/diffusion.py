r"""Policies that take noise out of actions: the signal's share $\bar\alpha$ runs from 1, the action, to 0, the noise.

A schedule gives $\bar\alpha_k$, the product of $1 - \beta$ over the steps up to $k$, which falls with $k$: diffusion
counts from the action to the noise, the opposite way of a flow's time. What is needed of the schedule goes in as
tensors, one number for each sample: `alpha_bar[k]` for its step $k$. Noise and steps are arguments; nothing is drawn
here. A network may say the noise $\varepsilon$, the action $x_0$, or $v$, a mixture of both; all three are the same
knowledge.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_actions, check_option, check_tail
from offline_losses._core.public import public
from offline_losses._core.reduce import promoted, reduce, select, select_rows, upcast
from offline_losses._core.root import root

PredictionType: TypeAlias = Literal["epsilon", "x0", "v"]
"""What a network says of a noisy action: its noise, the action itself, or the mixture of both that turns with them."""
_TYPES = ("epsilon", "x0", "v")


@public
def diffusion_point(noise: Tensor, action: Tensor, alpha_bar: Tensor) -> Tensor:
    r"""Action with noise in it, from $\bar\alpha = 1$, the action, to 0, the noise; a flow's time runs the other way.

    $$x = \sqrt{\bar\alpha}\,a + \sqrt{1 - \bar\alpha}\,\varepsilon$$

    Over $\sqrt{\bar\alpha} + \sqrt{1 - \bar\alpha}$ it is `flow_point` at the time $\sqrt{\bar\alpha}$ over that sum. A
    schedule that counts from the noise to the action is `alpha_bar.flip(-1)`.

    Args:
        noise: `[*batch, A]`, $\varepsilon$, drawn from a standard normal distribution.
        action: `[*batch, A]`, $a$.
        alpha_bar: `[*batch]` in [0, 1], $\bar\alpha$ at each sample's step, the square of the action's share.

    Returns:
        `[*batch, A]`, in the input's dtype.

    Gradient:
        `noise`, `action` and `alpha_bar`; none at the end of the schedule where a root has an infinite slope.

    Raises:
        ValueError: shapes that differ, no action axis.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> diffusion_point(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, 0.64]))
        tensor([[1.0000],
                [2.2000]])

    Reference:
        Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, equation 4.
    """
    check_actions("diffusion_point", {"alpha_bar": alpha_bar}, noise=noise, action=action)
    signal, sigma = _shares(upcast(alpha_bar))
    return (signal * upcast(action) + sigma * upcast(noise)).to(promoted(noise, action, alpha_bar))


@public
def diffusion_prediction(
    model_output: Tensor,
    point: Tensor,
    alpha_bar: Tensor,
    *,
    given: PredictionType = "epsilon",
    wanted: PredictionType = "x0",
) -> Tensor:
    r"""The same prediction in other terms, at a point with $\bar\alpha$ from 1, the action, to 0, the noise.

    $$x = \sqrt{\bar\alpha}\,x_0 + \sqrt{1 - \bar\alpha}\,\varepsilon, \qquad
    v = \sqrt{\bar\alpha}\,\varepsilon - \sqrt{1 - \bar\alpha}\,x_0$$

    Two equations: each of $\varepsilon$, $x_0$ and $v$ with the point gives the other two. A sampler needs $x_0$ at
    each step. A flow's time runs the other way, and its velocity is $x_0 - \varepsilon$.

    Args:
        model_output: `[*batch, A]`, what the network says.
        point: `[*batch, A]`, the noisy action $x$ that it was asked about.
        alpha_bar: `[*batch]` in [0, 1], $\bar\alpha$ of that point. At 0 the noise says nothing of the action, at 1 the
            action nothing of the noise: the result is not finite there, except from `"v"`.
        given: what `model_output` is, `"epsilon"`, `"x0"` or `"v"`.
        wanted: what comes back, likewise.

    Returns:
        `[*batch, A]`, in the input's dtype.

    Gradient:
        `model_output`, `point` and `alpha_bar`; the first alone where nothing is converted.

    Raises:
        ValueError: shapes that differ, no action axis, an unknown word.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> epsilon, point = torch.tensor([[0.0]]), torch.tensor([[1.0]])
        >>> diffusion_prediction(epsilon, point, torch.tensor([0.25]))
        tensor([[2.]])

    Reference:
        Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, arXiv:2202.00512 (v).
    """
    check_actions("diffusion_prediction", {"alpha_bar": alpha_bar}, model_output=model_output, point=point)
    check_option("diffusion_prediction", "given", given, _TYPES)
    check_option("diffusion_prediction", "wanted", wanted, _TYPES)
    if given == wanted:
        return model_output
    (signal, sigma), x, said = _shares(upcast(alpha_bar)), upcast(point), upcast(model_output)
    if given == "epsilon":
        x0, epsilon = (x - sigma * said) / signal, said
    elif given == "x0":
        x0, epsilon = said, (x - signal * said) / sigma
    else:
        x0, epsilon = signal * x - sigma * said, sigma * x + signal * said
    found = {"epsilon": epsilon, "x0": x0, "v": signal * epsilon - sigma * x0}[wanted]
    return found.to(promoted(model_output, point, alpha_bar))


@public
def diffusion_loss(
    model_output: Tensor,
    noise: Tensor,
    action: Tensor,
    alpha_bar: Tensor,
    *,
    prediction_type: PredictionType = "epsilon",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared error of what a network says of a noisy action, at $\bar\alpha$ from 1, the action, to 0, the noise.

    $$\frac1A \sum_d \left( f_d(x, k, s) - y_d \right)^2, \qquad
    y = \varepsilon,\ \ a\ \ \text{or}\ \ \sqrt{\bar\alpha}\,\varepsilon - \sqrt{1 - \bar\alpha}\,a$$

    The three differ in how much each step of the schedule counts: the error of $\varepsilon$ is that of $x_0$ times
    $\bar\alpha / (1 - \bar\alpha)$, the error of $v$ that of $x_0$ over $1 - \bar\alpha$. A function of `alpha_bar` as
    `weight` makes any other of them. A flow's time runs the other way.

    Args:
        model_output: `[*batch, A]`, the network's output at `diffusion_point(noise, action, alpha_bar)`.
        noise: `[*batch, A]`, $\varepsilon$, the same as in that point.
        action: `[*batch, A]`, $a$, the data's action.
        alpha_bar: `[*batch]` in [0, 1], $\bar\alpha$ of that point.
        prediction_type: what the network says, `"epsilon"`, `"x0"` or `"v"`.
        mask: bool `[*batch]`, True where the sample exists; padding of an action chunk belongs here.
        weight: `[*batch]`, multiplies and never enters the denominator; `awr_weights` for instance.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `model_output`, and of `noise`, `action` and `alpha_bar` what the type looks at; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, an unknown type or reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> noise, action = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
        >>> diffusion_loss(torch.tensor([[1.0, 3.0]]), noise, action, torch.tensor([0.64]))
        tensor(2.)

    Reference:
        Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, equation 14; Salimans and Ho,
        arXiv:2202.00512 (v). Mean over action dimensions; IDQL sums: see
        [Lineage](../lineage/diffusion.md#diffusion_loss).
    """
    name = "diffusion_loss"
    check_actions(name, {"alpha_bar": alpha_bar}, model_output=model_output, noise=noise, action=action)
    check_option(name, "prediction_type", prediction_type, _TYPES)
    check_tail(name, alpha_bar.shape, alpha_bar.shape, mask, weight, reduction, denominator)
    target = select_rows(mask, upcast(action if prediction_type == "x0" else noise))
    if prediction_type == "v":
        signal, sigma = _shares(select(mask, upcast(alpha_bar)))
        target = signal * target - sigma * select_rows(mask, upcast(action))
    error = select_rows(mask, upcast(model_output)) - target
    return reduce(error.square().mean(-1), mask, weight, reduction, denominator)


def _shares(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies the action and what multiplies the noise, for rows `[*batch, A]`."""
    return root(alpha_bar).unsqueeze(-1), root(1 - alpha_bar).unsqueeze(-1)
