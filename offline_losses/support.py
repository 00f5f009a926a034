r"""Staying where the data are: a model of the behavior says how likely an action is, and what is unlikely is barred.

The model is a classifier of discrete actions, or a variational auto-encoder of continuous ones, whose bound on the
log-density is trained on the data and afterwards read at the policy's actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_actions, check_axis, check_float, check_knob, check_tail
from offline_losses._core.exponential import above_tangent
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, over_rows, reduce, scalar, select, select_rows, times, upcast, widest
from offline_losses._core.tracing import is_nonzero


@public
def support_mask(logits: Tensor, *, threshold: Knob = 0.3) -> Tensor:
    r"""True for actions that the behavior takes often enough, relative to its favorite; a higher threshold bars more.

    $$\frac{G(a \mid s)}{\max_{a'} G(a' \mid s)} > \tau$$

    The most likely action is never barred. A maximum over what is left is that of discrete BCQ,
    `torch.where(support_mask(logits), q, -torch.inf).argmax(-1)`.

    Args:
        logits: `[*batch, N]`, of all actions: logarithms of $G$, normalized or not; −∞ for one that never occurs.
        threshold: $\tau$ in [0, 1); 0 bars what has no probability at all.

    Returns:
        bool `[*batch, N]`; all False in a row without a possible action.

    Gradient:
        None: a mask is no number.

    Raises:
        ValueError: no axis of actions, `threshold` out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> support_mask(torch.tensor([0.6, 0.3, 0.1]).log())
        tensor([ True,  True, False])

    Reference:
        Fujimoto, Conti, Ghavamzadeh and Pineau, Benchmarking Batch Deep Reinforcement Learning Algorithms,
        arXiv:1910.01708 (discrete BCQ): see [Lineage](../lineage/support.md#support_mask).
    """
    check_float("support_mask", logits=logits)
    check_axis("support_mask", "logits", logits, "action")
    check_knob("support_mask", "threshold", threshold, 0.0, 1.0, "[)", [logits.shape[:-1]])
    x = upcast(logits.detach())
    best = x.amax(-1, keepdim=True)
    often = (x == best) | (
        x - best > scalar(over_rows(threshold), x).detach().log()
    )  # of infinite logits no difference is a number
    return often & (x > -torch.inf)


@public
def evidence_lower_bound(
    log_prob: Tensor, latent_mean: Tensor, latent_log_std: Tensor, *, kl_weight: Knob = 1.0
) -> Tensor:
    r"""Lower bound on an action's log-density under a variational auto-encoder (ELBO): higher where the data are.

    $$\log p(a \mid s, z) - \beta \cdot \frac12 \sum_d \left( \mu_d^2 + \sigma_d^2 - 1 - 2 \log \sigma_d \right), \qquad
    z = \mu + \sigma \varepsilon$$

    The sum is the relative entropy of the encoder's normal distribution from a standard one, in closed form.

    Args:
        log_prob: `[*batch]`, $\log p(a \mid s, z)$ of the decoder, at one draw of $z$, or the mean over several.
        latent_mean: `[*batch, D]`, $\mu$ of the encoder.
        latent_log_std: `[*batch, D]`, $\log \sigma$.
        kl_weight: $\beta$, at least 0; 1 is the bound, everything else trades reconstruction for a simple latent.

    Returns:
        `[*batch]`, nats, float32 or wider.

    Gradient:
        All three, and `kl_weight` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no latent axis, a negative `kl_weight`.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> evidence_lower_bound(torch.tensor([-1.0]), torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2))
        tensor([-2.])

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B (the closed form). BCQ and
        SPOT take means where this sums: see [Lineage](../lineage/support.md#evidence_lower_bound).
    """
    numbers = {"log_prob": log_prob}
    check_actions("evidence_lower_bound", numbers, latent_mean=latent_mean, latent_log_std=latent_log_std)
    check_knob("evidence_lower_bound", "kl_weight", kl_weight, 0.0, bounds="[)", shapes=[log_prob.shape])
    log_prob, mean, log_std = widest(log_prob, latent_mean, latent_log_std)
    return _bound(log_prob, mean, log_std, kl_weight)


@public
def elbo_loss(
    log_prob: Tensor,
    latent_mean: Tensor,
    latent_log_std: Tensor,
    *,
    kl_weight: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Minus the evidence lower bound: lower as a variational auto-encoder of the data's actions explains them better.

    $$-\log p(a \mid s, z) + \beta \cdot \frac12 \sum_d \left( \mu_d^2 + \sigma_d^2 - 1 - 2 \log \sigma_d \right)$$

    Trained on the data's actions it makes the behavior model of BCQ, BEAR and SPOT. Read at the policy's action, with
    the model's parameters held fixed, it is SPOT's penalty with one draw of $z$.

    Args:
        log_prob: `[*batch]`, $\log p(a \mid s, z)$ of the decoder. For a squared error with the decoder's deviation
            $s$, minus `(reconstruction - action).square().sum(-1) / (2 * s**2)`, up to a constant.
        latent_mean: `[*batch, D]`, $\mu$ of the encoder.
        latent_log_std: `[*batch, D]`, $\log \sigma$.
        kl_weight: $\beta$, at least 0.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `log_prob`, `latent_mean`, `latent_log_std`, and `kl_weight` if it is a tensor; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no latent axis, a negative `kl_weight`, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> elbo_loss(torch.tensor([-1.0]), torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), kl_weight=0.5)
        tensor(1.5000)

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114; Fujimoto, Meger and Precup, Off-Policy
        Deep Reinforcement Learning without Exploration (BCQ), arXiv:1812.02900. For its number pass
        `kl_weight=0.5 / D`: see [Lineage](../lineage/support.md#elbo_loss).
    """
    numbers = {"log_prob": log_prob}
    check_actions("elbo_loss", numbers, latent_mean=latent_mean, latent_log_std=latent_log_std)
    check_knob("elbo_loss", "kl_weight", kl_weight, 0.0, bounds="[)", shapes=[log_prob.shape])
    check_tail("elbo_loss", log_prob.shape, log_prob.shape, mask, weight, reduction, denominator)
    mean, log_std = select_rows(mask, upcast(latent_mean)), select_rows(mask, upcast(latent_log_std))
    bound = _bound(select(mask, upcast(log_prob)), mean, log_std, kl_weight)
    return reduce(-bound, mask, weight, reduction, denominator)


@public
def spot_penalty(
    log_weight: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Minus the log-density of an action under a behavior model: minimize it, so that the policy stays likely.

    $$-\log \frac1N \sum_{i=1}^N w_i, \qquad w_i = \frac{p(a \mid s, z_i)\,p(z_i)}{q(z_i \mid s, a)}, \quad
    z_i \sim q(\cdot \mid s, a)$$

    The model is a variational auto-encoder that was trained before, with `elbo_loss`, and is held fixed: what moves is
    the action, through decoder and encoder. With one draw it estimates the evidence lower bound; more draws come closer
    to the density, from below.

    Args:
        log_weight: `[*batch, N]`, $\log w_i = \log p(a \mid s, z_i) + \log p(z_i) - \log q(z_i \mid s, a)$ at the
            policy's action; −∞ for a draw that cannot have made it.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; nats; float32, or float64 for float64 input. Where all draws are −∞ it is ∞.

    Gradient:
        `log_weight`, each draw by its share; none where all are −∞. `weight` is detached.

    Raises:
        ValueError: no axis of draws, shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> spot_penalty(torch.tensor([[0.5, 0.1], [0.2, 0.2]]).log(), reduction="none")
        tensor([1.2040, 1.6094])

    Reference:
        Wu et al., Supported Policy Optimization for Offline Reinforcement Learning (SPOT), arXiv:2202.06239; Burda,
        Grosse and Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519: see
        [Lineage](../lineage/support.md#spot_penalty).
    """
    check_float("spot_penalty", log_weight=log_weight)
    check_axis("spot_penalty", "log_weight", log_weight, "draw")
    batch = log_weight.shape[:-1]
    check_tail("spot_penalty", batch, batch, mask, weight, reduction, denominator)
    x = select_rows(mask, upcast(log_weight))
    best = x.detach().amax(-1, keepdim=True)
    possible = best > -torch.inf
    share = (x - torch.where(possible, best, 0.0)).exp().mean(-1)
    log_density = torch.where(possible.squeeze(-1), share, 1.0).log() + best.squeeze(-1)
    return reduce(-log_density, mask, weight, reduction, denominator)


def _bound(log_prob: Tensor, mean: Tensor, log_std: Tensor, kl_weight: Knob) -> Tensor:
    """Log-probability less the weighted relative entropy, of which no digit is lost near a standard distribution."""
    if not is_nonzero(kl_weight):  # a weight of zero takes nothing: the slope that it multiplies has to be finite
        log_std = torch.where(scalar(kl_weight, log_prob).unsqueeze(-1) == 0, clamped(log_std, high=40.0), log_std)
    relative_entropy = (mean.square() + above_tangent(2 * log_std)).sum(-1) / 2
    return log_prob - times(kl_weight, relative_entropy)
