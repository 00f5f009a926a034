r"""The return of an action chunk: a few actions that are chosen at once, valued as one.

A row holds the steps $t, \dots, t + h - 1$ of the data. Where the episode ends among them, the rest of the row belongs
to no one: a chunk ends there, and its bootstrap has the exponent of the steps that it really took.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_float, check_rows, check_sequence
from offline_losses._core.episodes import sequence_end
from offline_losses._core.public import public
from offline_losses._core.reduce import over_steps, summed, times, upcast
from offline_losses.recurrence import discounted_recurrence, done_or_zero


@public
def chunk_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, *, discount: Knob = 0.99
) -> Tensor:
    r"""Discounted rewards of a chunk, then the value of the state that it led to: the target of a chunked critic.

    $$G = \sum_{k=0}^{m-1} \gamma^k r_k + \gamma^m V', \qquad
    m = \min(h, \text{steps left in the episode}), \qquad V' = 0 \text{ where terminated}$$

    Each row is one chunk, whatever its last steps hold: every start has its target, those of the last $h - 1$ steps of
    an episode included. On flat data `n_step_return` with $n = h$ gives the same for every start at once.

    The steps that exist are `exists = done.cumsum(-1) - done.long() == 0`; the state to value is the next one of step
    `exists.sum(-1) - 1`, and `exists` is the mask of a loss on the chunk's actions.

    Args:
        reward: `[*batch, h]`, of a row's $h$ steps, the first one's chunk.
        next_value: `[*batch]`, value of the state after the last step that exists.
        terminated: bool `[*batch, h]`, True where the environment ended.
        done: bool `[*batch, h]`, True on the last step of an episode. What follows the first one is not read.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, h]` of one for each step (steps of differing duration).

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> done = torch.tensor([[False, False, False], [False, True, False]])
        >>> chunk_return(torch.ones(2, 3), torch.tensor([8.0, 8.0]), torch.zeros_like(done), done, discount=0.5)
        tensor([2.7500, 3.5000])

    Reference:
        Li, Zhou and Levine, Reinforcement Learning with Action Chunking (Q-chunking), arXiv:2507.07969. Its code drops
        the chunks in which an episode ends: see [Lineage](../lineage/chunks.md#chunk_return).
    """
    check_sequence("chunk_return", discount, {"reward": reward}, terminated=terminated, done=done)
    check_float("chunk_return", next_value=next_value)
    check_rows("chunk_return", reward=reward, next_value=next_value)
    discount, end = over_steps(discount, reward), sequence_end(done)
    exists = end.cumsum(-1) - end.long() == 0
    bootstrap = torch.where(end & exists & ~terminated, upcast(next_value).unsqueeze(-1), 0.0)
    b = torch.where(exists, upcast(reward), 0.0) + times(discount, bootstrap)
    return discounted_recurrence(b, discount, done_or_zero(done, discount))[..., 0].to(summed(reward, next_value))
