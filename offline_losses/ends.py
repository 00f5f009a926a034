r"""Ends of episodes as a file tells them: what can be wrong with flags, before anything is made of them.

Every return and every filter believes its flags. A file that marks its ends by another rule gives numbers that look
like returns; most such rules show in the flags alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import check_axis, check_flags
from offline_losses._core.public import public


@public
def check_ends(terminated: Tensor, done: Tensor) -> None:
    r"""Refuse flags that cannot be right, as read from a flat file: call it once, before anything is made of them.

    Three mistakes show in the flags alone: a `done` that is not True where `terminated` is (the truncations alone, or
    another convention), a file read without its time limits (no row is done), and terminations that stand on two rows
    in a row, on the last step and on the one after it. Episodes of a single step look like the last; only where they
    make up more than half of the terminations, and not all rows, are they taken for it. Unlike all other functions this
    one looks at values, for which it waits for a device.

    Args:
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode: terminated or truncated.

    Returns:
        None.

    Gradient:
        None: flags have none.

    Raises:
        ValueError: shapes that differ, or one of the mistakes, with the first row that has it.
        TypeError: flags that are not bool.

    Examples:
        >>> import torch
        >>> check_ends(torch.tensor([False, True, False]), torch.tensor([False, True, True]))
    """
    check_flags("check_ends", getattr(terminated, "shape", torch.Size()), terminated=terminated)
    check_axis("check_ends", "terminated", terminated, "step")
    check_flags("check_ends", terminated.shape, done=done)
    follows = pad(terminated[..., :-1], (1, 0))  # the row before is terminated too
    runs, pairs = terminated & ~follows, follows & terminated & ~pad(follows[..., :-1], (1, 0))
    doubled = pairs if 2 * int(pairs.sum()) > int(runs.sum()) and not terminated.all() else pairs & False
    for wrong, argument, expected, got, mend in (
        (terminated & ~done, "done", "True wherever terminated is", "False", "It is terminated | truncated"),
        (~done & ~done.any(), "done", "the last row of each episode", "not one", "Read the file's time limits too"),
        (doubled, "terminated", "the last row of an episode alone", "that after it too", "Keep the first of the two"),
    ):
        if wrong.any():
            row = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"check_ends: {argument}: expected {expected}, got {got} in {int(wrong.sum())} of {wrong.numel()} "
                f"rows, the first of which is {row if len(row) > 1 else row[0]}. {mend}."
            )
