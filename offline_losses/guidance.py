r"""Bending a generative policy at each step: towards a condition, up a critic, and what leaving the behavior costs.

All of it acts on what the network says at one noisy action, a velocity or a noise. For noises the signal's share
$\bar\alpha$ runs from 1, the action, to 0, the noise, the opposite way of a flow's time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_actions, check_knob, check_tail, check_values
from offline_losses._core.public import public
from offline_losses._core.reduce import over_rows, promoted, reduce, select, select_rows, times, upcast
from offline_losses._core.root import root


@public
def guided_field(unconditional: Tensor, conditional: Tensor, *, guidance_scale: Knob) -> Tensor:
    r"""Velocity or noise pushed further the way the condition points, in either direction of time; 1 just follows.

    $$v_\varnothing + w\,(v_c - v_\varnothing)$$

    One network learns both, by dropping the condition of some samples, and each step of the flow or of the denoising
    takes this in place of its output. 0 ignores the condition, 1 is the conditional field, more exaggerates it. The
    condition may be that the action was better than expected: then it improves a policy, without a critic's gradient.

    Args:
        unconditional: `[*batch, A]`, $v_\varnothing$, without the condition.
        conditional: `[*batch, A]`, $v_c$, with it.
        guidance_scale: $w$, any finite number.

    Returns:
        `[*batch, A]`, in the input's dtype.

    Gradient:
        `unconditional`, `conditional`, and `guidance_scale` if it is a tensor.

    Raises:
        ValueError: shapes that differ, a scale that is not finite.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> guided_field(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), guidance_scale=3.0)
        tensor([3., 1.])

    Reference:
        Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv:2207.12598, whose scale is ours less 1; Frans et al.,
        Diffusion Guidance Is a Controllable Policy Improvement Operator, arXiv:2505.23458: see
        [Lineage](../lineage/guidance.md#guided_field).
    """
    check_values("guided_field", unconditional=unconditional, conditional=conditional)
    check_knob("guided_field", "guidance_scale", guidance_scale, -math.inf, shapes=[unconditional.shape[:-1]])
    scale = over_rows(guidance_scale)
    field = times(1 - scale, upcast(unconditional)) + times(scale, upcast(conditional))
    return field.to(promoted(unconditional, conditional))


@public
def q_score_penalty(
    model_output: Tensor,
    action_gradient: Tensor,
    alpha_bar: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""How far the noise to be taken out points up the critic, at $\bar\alpha$ from 1, the action, to 0, the noise.

    $$\frac{\sqrt{1 - \bar\alpha}}{A} \sum_d \varepsilon_d(x, k, s)\,\frac{\partial Q(s, x)}{\partial x_d}$$

    Denoising subtracts $\varepsilon$: minimized, the penalty turns what is left towards higher values. Beside
    `eta * diffusion_loss(...)`, whose mean over dimensions it shares, the least is at the behavior's noise less
    $\sqrt{1 - \bar\alpha}\,\nabla Q / 2 \eta$, which is the noise of $\beta\,e^{Q / 2 \eta}$. No step of the
    denoising is differentiated.

    Args:
        model_output: `[*batch, A]`, the noise that the network says, `"epsilon"`.
        action_gradient: `[*batch, A]`, $\nabla_x Q(s, x)$ at the **noisy** action: `torch.autograd.grad(q.sum(), x)`;
            over `q.abs().mean()` it is blind to the scale of Q.
        alpha_bar: `[*batch]` in [0, 1], $\bar\alpha$ of that point; it rises where a flow's time rises.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `model_output`, `action_gradient` and `alpha_bar`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> q_score_penalty(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 0.0]]), torch.tensor([0.75]))
        tensor(1.)

    Reference:
        Fang et al., Diffusion Actor-Critic (DAC), arXiv:2405.20555 (soft Q-guidance).
        See [Lineage](../lineage/guidance.md#q_score_penalty).
    """
    check_actions(
        "q_score_penalty", {"alpha_bar": alpha_bar}, model_output=model_output, action_gradient=action_gradient
    )
    check_tail("q_score_penalty", alpha_bar.shape, alpha_bar.shape, mask, weight, reduction, denominator)
    sigma = root(1 - select(mask, upcast(alpha_bar)))
    slope = select_rows(mask, upcast(model_output)) * select_rows(mask, upcast(action_gradient))
    return reduce(sigma * slope.mean(-1), mask, weight, reduction, denominator)


@public
def path_kl_penalty(
    model_output: Tensor,
    target: Tensor,
    alpha_bar: Tensor,
    step_variance: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Divergence of one denoising step from the behavior's, at $\bar\alpha$ from 1, the action, to 0, the noise.

    $$\frac{\beta_k}{2\,(1 - \beta_k)(1 - \bar\alpha_k)} \sum_d \left( \varepsilon_d - \varepsilon^\beta_d \right)^2$$

    Two policies denoise by normal steps of the same variance $\beta_k$ and of means that the noise they say decides;
    this is the relative entropy of the two steps. Summed over the steps of a path, it bounds the relative entropy of
    the policies' actions from above. Q less it, times a temperature, is the value of a policy that pays for leaving
    the behavior at each step of its denoising.

    Args:
        model_output: `[*batch, A]`, the policy's noise $\varepsilon$ at the point of step $k$.
        target: `[*batch, A]`, the behavior model's $\varepsilon^\beta$ at the same point.
        alpha_bar: `[*batch]` in (0, 1), $\bar\alpha_k$; it rises where a flow's time rises.
        step_variance: `[*batch]` in [0, 1), $\beta_k = 1 - \bar\alpha_k / \bar\alpha_{k - 1}$; a step of none costs 0.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; nats; float32, or float64 for float64 input.

    Gradient:
        `model_output`, `alpha_bar` and `step_variance`; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no action axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> path_kl_penalty(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.5]), torch.tensor([0.5]))
        tensor(2.)

    Reference:
        Gao et al., Behavior-Regularized Diffusion Policy Optimization (BDPO), arXiv:2502.04778; Ho, Jain and Abbeel,
        arXiv:2006.11239, equation 12. Sum over action dimensions, as a divergence is: see
        [Lineage](../lineage/guidance.md#path_kl_penalty).
    """
    numbers = {"alpha_bar": alpha_bar, "step_variance": step_variance}
    check_actions("path_kl_penalty", numbers, model_output=model_output, target=target)
    check_tail("path_kl_penalty", alpha_bar.shape, alpha_bar.shape, mask, weight, reduction, denominator)
    share, variance = select(mask, upcast(alpha_bar)), select(mask, upcast(step_variance))
    scale = 2 * (1 - variance) * (1 - share)
    none = (variance == 0) & (share == 1)
    factor = torch.where(none, 0.0, variance / torch.where(none, 1.0, scale))
    difference = select_rows(mask, upcast(model_output) - upcast(target.detach()))
    return reduce(factor * difference.square().sum(-1), mask, weight, reduction, denominator)
