r"""Log-ratios as a log and a policy give them: what can be wrong with them, before anything is weighted by them.

Every estimate believes its ratios. Ratios in place of their logarithms, or the policy's probabilities without the
propensities, give numbers that look like values; most such mistakes show in the numbers alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import check_axis, check_flags, check_values
from offline_losses._core.episodes import sequence_end
from offline_losses._core.errors import refuse
from offline_losses._core.public import public

ENOUGH = 20
"""So many steps of one sign are no accident: ratios average to one, and so some of them are below it and some above."""


@public
def check_log_ratio(log_ratio: Tensor, done: Tensor) -> None:
    r"""Refuse log-ratios that cannot be right, or that leave episodes without a weight: call it once, on the whole log.

    $$\ell = \log \pi(a \mid s) - \log \mu(a \mid s), \qquad \mathbb E_{a \sim \mu}\left[ e^{\ell} \right] = 1$$

    Refused are a log without the end of an episode; NaN; ∞, a propensity of zero; of 20 steps and more, numbers none of
    which is below 0, as probabilities and ratios are, or none above 0, as the policy's log-probabilities alone are; and
    −∞, an action that the policy never takes. The estimators allow the last, and such an episode counts for nothing;
    here the error says how many there are. It looks at values, for which it waits for a device.

    Args:
        log_ratio: `[*batch, T]`, $\ell$.
        done: bool `[*batch, T]`, True on the last step of an episode.

    Returns:
        None.

    Gradient:
        None: it computes nothing.

    Raises:
        ValueError: shapes that differ, or one of the mistakes, with the number of steps that have it and the first.
        TypeError: not a tensor, integer values, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> check_log_ratio(torch.tensor([0.6, 0.4]).log() - torch.tensor([0.5, 0.5]).log(), torch.tensor([True, True]))

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000.
    """
    check_values("check_log_ratio", log_ratio=log_ratio)
    check_axis("check_log_ratio", "log_ratio", log_ratio, "step")
    check_flags("check_log_ratio", log_ratio.shape, done=done)
    never, many = log_ratio.isneginf(), log_ratio.numel() >= ENOUGH
    ended = sequence_end(done).flatten()
    episode = ended.cumsum(0) - ended.long()
    lost = int((torch.bincount(episode[never.flatten()]) > 0).sum())
    for wrong, argument, expected, got, mend in (
        (~done & ~done.any(), "done", "the last step of each episode", "not one", "Read the log's time limits too"),
        (log_ratio.isnan(), "log_ratio", "numbers", "NaN", "Look for 0 / 0 among the probabilities"),
        (log_ratio.isposinf(), "log_ratio", "propensities above 0", "∞", "Take the propensity that was logged"),
        (
            (log_ratio >= 0) & ((log_ratio >= 0).all() & (log_ratio > 0).any() & many),
            "log_ratio",
            "logarithms, some of which are below 0",
            "none below 0",
            "Of ratios or probabilities take the logarithm, probability.log() - propensity.log()",
        ),
        (
            (log_ratio <= 0) & ((log_ratio <= 0).all() & ((log_ratio < 0) & ~never).any() & many),
            "log_ratio",
            "logarithms of ratios, some of which are above 0",
            "none above 0",
            "Subtract the logarithms of the propensities",
        ),
        (
            never,
            "log_ratio",
            "actions that the policy takes",
            f"−∞, one that it never takes, in {lost} of {int(ended.sum())} episodes,",
            "Give it some probability of every action, or go on without this check: those episodes count for nothing",
        ),
    ):
        if wrong.any():
            row = wrong.nonzero()[0].tolist()
            first = row if len(row) > 1 else row[0]
            share = f"{got} in {int(wrong.sum())} of {wrong.numel()} steps, the first of which is {first}"
            refuse(ValueError, "check_log_ratio", argument, expected, share, f"{mend}.")
