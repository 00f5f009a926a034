r"""Target policy smoothing: the action that a critic's target looks at, moved by a little noise within its bounds.

A critic has no say about actions that are only a little different from each other.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import Knob, check_axis, check_float, check_knob, check_shape, check_values
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, over_rows, promoted, scalar, upcast


@public
def smoothed_action(
    action: Tensor, noise: Tensor, low: Tensor, high: Tensor, *, noise_scale: Knob = 0.2, max_noise: Knob = 0.5
) -> Tensor:
    r"""Action with clipped noise, kept within its bounds: what the target of TD3, TD3+BC and ReBRAC is valued at.

    $$\operatorname{clip}\left( a + b \operatorname{clip}(\sigma z, -c, c),\ l, h \right), \qquad b = \frac{h - l}2$$

    Deviation and clip are in units of half the range of each dimension, so that they mean the same for every action
    space.

    Args:
        action: `[*batch, A]`, of the slow policy.
        noise: `[*batch, A]`, $z$, standard normal: `torch.randn_like(action)`.
        low: `[A]`, lower bounds of the action space, finite, `torch.as_tensor(space.low)`.
        high: `[A]`, upper bounds, each above its lower one.
        noise_scale: $\sigma \ge 0$, in half ranges.
        max_noise: $c \ge 0$, in half ranges.

    Returns:
        `[*batch, A]`, in the dtype of action and noise.

    Gradient:
        `action`, `noise` (neither beyond its clip), `low`, `high`, and the knobs if they are tensors.

    Raises:
        ValueError: shapes that differ, no action axis, a knob that is negative.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> action, noise = torch.tensor([[0.0, 0.0, 1.9]]), torch.tensor([[1.0, 9.0, 1.0]])
        >>> smoothed_action(action, noise, torch.full((3,), -2.0), torch.full((3,), 2.0))
        tensor([[0.4000, 1.0000, 2.0000]])

    Reference:
        Fujimoto, van Hoof and Meger, Addressing Function Approximation Error in Actor-Critic Methods (TD3),
        arXiv:1802.09477 (target policy smoothing). Some scale one of the two, or neither: see
        [Lineage](../lineage/smoothing.md#smoothed_action).
    """
    check_values("smoothed_action", action=action, noise=noise)
    check_axis("smoothed_action", "action", action, "dimension")
    check_float("smoothed_action", low=low, high=high)
    check_shape("smoothed_action", "the last axis of action", action.shape[-1:], low=low, high=high)
    check_knob("smoothed_action", "noise_scale", noise_scale, 0.0, bounds="[)", shapes=[action.shape[:-1]])
    check_knob("smoothed_action", "max_noise", max_noise, 0.0, bounds="[]", shapes=[action.shape[:-1]])
    least, most = upcast(low), upcast(high)
    z = over_rows(noise_scale) * upcast(noise)
    bound = scalar(over_rows(max_noise), z)
    moved = upcast(action) + (most / 2 - least / 2) * clamped(z, -bound, bound)
    return clamped(moved, least, most).to(promoted(action, noise))
