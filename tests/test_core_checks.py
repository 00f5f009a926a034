"""What each check takes, and the words in which it refuses all else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offline_losses._core.checks import (
    check_actions,
    check_axis,
    check_count,
    check_critics,
    check_few_axes,
    check_flags,
    check_float,
    check_index,
    check_integers,
    check_knob,
    check_option,
    check_prediction,
    check_rows,
    check_sequence,
    check_shape,
    check_some,
    check_tail,
    check_values,
    present,
)
from offline_losses._core.errors import refuse_shape

NESTED = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
NESTED_FLAGS = torch.nested.nested_tensor([torch.ones(1).bool(), torch.ones(2).bool()], layout=torch.jagged)
RESHAPE = "Nothing is broadcast between samples: reshape it to match."


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def flags(*shape: int) -> Tensor:
    return ones(*shape).bool()


def tail(mask: Any = None, weight: Any = None, reduction: Any = "mean", denominator: Any = None) -> None:
    """Of a loss of two critics."""
    check_tail("f", torch.Size([2, 3]), torch.Size([3]), mask, weight, reduction, denominator)


@pytest.mark.parametrize(
    "accepted",
    [
        lambda: check_float("f", x=ones(2), y=ones(1).half()),
        lambda: check_values("f", x=ones(2, 3), y=ones(2, 3).double()),
        lambda: check_flags("f", torch.Size([2]), x=flags(2)),
        lambda: check_prediction("f", x=ones(2, 3), y=ones(3)),
        lambda: check_prediction("f", x=ones(3), y=ones(3)),
        lambda: check_prediction("f", x=ones(), y=ones()),
        lambda: check_rows("f", x=ones(3, 4), y=ones(3), z=ones(3)),
        lambda: check_actions("f", {"q": ones(3)}, x=ones(3, 4), y=ones(3, 4)),
        lambda: check_actions("f", x=ones(4)),
        lambda: check_sequence("f", 0.0, {"x": ones(2, 3), "y": ones(2, 3)}, done=flags(2, 3)),
        lambda: check_sequence("f", ones(2), {"x": ones(2, 3)}, done=flags(2, 3)),
        lambda: check_sequence("f", 1.0, {"x": ones(2, 3)}),
        lambda: check_sequence("f", ones(2, 3), {"x": ones(2, 3, 4)}),
        lambda: check_axis("f", "x", ones(3, 1), "step"),
        lambda: check_axis("f", "x", ones(3, 5, 2), "step", 2),
        lambda: check_some("f", "x", ones(), "step"),
        lambda: check_critics("f", x=ones(1)),
        lambda: check_critics("f", least=2, last="action", x=ones(2, 1)),
        lambda: check_count("f", "n", 2, 2),
        lambda: check_count("f", "n", 2, 1, 2),
        lambda: check_index("f", "x", torch.zeros(1, dtype=torch.int64), "critic"),
        lambda: check_integers("f", "x", torch.Size([2]), y=torch.zeros(2, dtype=torch.int64)),
        lambda: check_integers("f", "x", torch.Size([3, 2]), critics=True, y=torch.zeros(2, dtype=torch.int64)),
        lambda: check_few_axes("f", "x", ones(1, 1, 1)),
        lambda: check_shape("f", "x", torch.Size([2]), y=ones(2)),
        lambda: check_knob("f", "x", 1, 0.0),
        lambda: check_knob("f", "x", 0.0, 0.0, 1.0, "[)"),
        lambda: check_knob("f", "x", 1.0, 0.0, 1.0, "(]"),
        lambda: check_knob("f", "x", ones(), 0.0),
        lambda: check_knob("f", "x", ones(2, 1), 0.0, shapes=[torch.Size([3]), torch.Size([2, 4])]),
        lambda: check_option("f", "x", "a", ("a", "b")),
        lambda: tail(mask=flags(3), weight=ones(2, 3), denominator=0),
        lambda: tail(mask=flags(2, 3), weight=ones(3), denominator=torch.tensor(2)),
        lambda: tail(denominator=torch.tensor(2, dtype=torch.int32)),
        lambda: tail(denominator=ones(2, 1)),
        lambda: tail(denominator=ones(1)),
        lambda: tail(reduction="sum"),
        lambda: tail(reduction="none"),
    ],
)
def test_what_fits_is_taken(accepted: Callable[[], None]) -> None:
    """At the ends of its interval too."""
    accepted()


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (
            lambda: check_float("f", x=2.0),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got 2.0 of type float. Convert it with torch.as_tensor.",
        ),
        (
            lambda: check_float("f", x=[2.0]),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got a list of 1, the first 2.0 of type float. "
            "Convert it with torch.as_tensor.",
        ),
        (
            lambda: check_float("f", x=np.ones((2, 3))),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got an array of shape [2, 3] of type ndarray. "
            "Convert it with torch.as_tensor.",
        ),
        (
            lambda: check_float("f", x=()),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got () of type tuple. "
            "Critics are the first axis of one tensor: torch.stack(x).",
        ),
        (
            lambda: check_float("f", x=(ones(2), ones(2))),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got a tuple of 2, the first a tensor of shape [2] and dtype torch.float32. "
            "Critics are the first axis of one tensor: torch.stack(x).",
        ),
        (
            lambda: check_float("f", x=[ones(2), 1.0]),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a torch.Tensor, got a list of 2, the first a tensor of shape [2] and dtype torch.float32. "
            "Convert it with torch.as_tensor.",
        ),
        (
            lambda: check_float("f", x=NESTED),
            TypeError,
            "f: x: expected rows of equal length, got a nested tensor of dtype torch.float32. "
            "Pad it, x.to_padded_tensor(0.0), and mask what is padding, or pass the rows one after the other.",
        ),
        (
            lambda: check_float("f", x=flags(2)),
            TypeError,
            "f: x: expected a floating dtype, got a tensor of shape [2] and dtype torch.bool. "
            "Convert it with x.float() if that is what you mean.",
        ),
        (
            lambda: check_values("f", x=ones(2), y=ones(2, 1)),
            ValueError,
            f"f: y: expected shape [2] (that of x), got shape [2, 1]. {RESHAPE} Here y.squeeze(-1) does.",
        ),
        (
            lambda: check_values("f", x=ones(2, 3), y=ones(2, 3, 1)),
            ValueError,
            f"f: y: expected shape [2, 3] (that of x), got shape [2, 3, 1]. {RESHAPE} Here y.squeeze(-1) does.",
        ),
        (
            lambda: check_values("f", x=ones(2, 1), y=ones(2)),
            ValueError,
            f"f: y: expected shape [2, 1] (that of x), got shape [2]. {RESHAPE} Here x.squeeze(-1) does.",
        ),
        (
            lambda: check_values("f", x=ones(2), y=ones()),
            ValueError,
            f"f: y: expected shape [2] (that of x), got shape []. {RESHAPE} "
            "If one number is meant for all, y.expand_as(x) does.",
        ),
        (
            lambda: check_values("f", x=ones(2), y=ones(3)),
            ValueError,
            f"f: y: expected shape [2] (that of x), got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_flags("f", torch.Size([2]), done=ones(2)),
            TypeError,
            "f: done: expected a bool tensor, got a tensor of shape [2] and dtype torch.float32. "
            "Convert it with done.bool() (True means that it holds).",
        ),
        (
            lambda: check_flags("f", torch.Size([2]), done=True),  # type: ignore[arg-type]
            TypeError,
            "f: done: expected a bool tensor, got True of type bool. "
            "Convert it with torch.as_tensor(done).bool() (True means that it holds).",
        ),
        (
            lambda: check_flags("f", torch.Size([2]), done=NESTED_FLAGS),
            TypeError,
            "f: done: expected rows of equal length, got a nested tensor of dtype torch.bool. "
            "Pad it, done.to_padded_tensor(0.0), and mask what is padding, or pass the rows one after the other.",
        ),
        (
            lambda: check_flags("f", torch.Size([2]), done=flags(3)),
            ValueError,
            f"f: done: expected shape [2], got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_flags("f", torch.Size([2]), done=flags(2, 1)),
            ValueError,
            f"f: done: expected shape [2], got shape [2, 1]. {RESHAPE} Here done.squeeze(-1) does.",
        ),
        (
            lambda: check_flags("f", torch.Size([2, 3]), done=flags(2, 3, 1)),
            ValueError,
            f"f: done: expected shape [2, 3], got shape [2, 3, 1]. {RESHAPE} Here done.squeeze(-1) does.",
        ),
        (
            lambda: check_flags("f", torch.Size([2, 1]), done=flags(2)),
            ValueError,
            f"f: done: expected shape [2, 1], got shape [2]. {RESHAPE} Here squeeze(-1) of the others does.",
        ),
        (
            lambda: check_prediction("f", x=ones(2, 1), y=ones(2, 1, 1)),
            ValueError,
            f"f: y: expected shape [2, 1] (that of x), got shape [2, 1, 1]. {RESHAPE} Here y.squeeze(-1) does.",
        ),
        (
            lambda: check_prediction("f", x=ones(5, 2, 3), y=ones(2, 3, 1)),
            ValueError,
            f"f: y: expected shape [5, 2, 3] (that of x), got shape [2, 3, 1]. {RESHAPE} Here y.squeeze(-1) does.",
        ),
        (
            lambda: check_prediction("f", x=ones(2, 3, 1), y=ones(3)),
            ValueError,
            f"f: y: expected shape [2, 3, 1] (that of x), got shape [3]. {RESHAPE} Here x.squeeze(-1) does.",
        ),
        (
            lambda: check_prediction("f", x=ones(2, 3, 1), y=ones(4, 3, 1)),
            ValueError,
            f"f: y: expected shape [2, 3, 1] (that of x), got shape [4, 3, 1]. {RESHAPE}",
        ),
        (
            lambda: check_prediction("f", x=ones(3), y=ones()),
            ValueError,
            f"f: y: expected shape [3] (that of x), got shape []. {RESHAPE} "
            "If one number is meant for all, y.expand_as(x) does.",
        ),
        (
            lambda: check_rows("f", x=ones(3, 4), y=ones(4)),
            ValueError,
            f"f: y: expected shape [3] (that of x without its last axis), got shape [4]. {RESHAPE}",
        ),
        (
            lambda: check_rows("f", x=ones(3, 4), y=ones(3), z=ones(3, 1)),
            ValueError,
            f"f: z: expected shape [3] (that of x without its last axis), got shape [3, 1]. {RESHAPE} "
            "Here z.squeeze(-1) does.",
        ),
        (
            lambda: check_rows("f", x=ones(3, 4, 1), y=ones(3)),
            ValueError,
            f"f: y: expected shape [3, 4] (that of x without its last axis), got shape [3]. {RESHAPE} "
            "Here x.squeeze(-1) does.",
        ),
        (
            lambda: check_rows("f", x=ones(2, 3, 4), y=ones(2, 3, 1)),
            ValueError,
            f"f: y: expected shape [2, 3] (that of x without its last axis), got shape [2, 3, 1]. {RESHAPE} "
            "Here y.squeeze(-1) does.",
        ),
        (
            lambda: check_rows("f", x=ones(2, 3, 4, 1), y=ones(2, 3, 1)),
            ValueError,
            f"f: y: expected shape [2, 3, 4] (that of x without its last axis), got shape [2, 3, 1]. {RESHAPE} "
            "Here y.squeeze(-1) and x.squeeze(-1) do.",
        ),
        (
            lambda: check_rows("f", x=ones(2, 3, 4, 5), y=ones(2, 3)),
            ValueError,
            f"f: y: expected shape [2, 3, 4] (that of x without its last axis), got shape [2, 3]. {RESHAPE}",
        ),
        (
            lambda: check_rows("f", x=ones(3, 4), y=ones()),
            ValueError,
            f"f: y: expected shape [3] (that of x without its last axis), got shape []. {RESHAPE} "
            "If one number is meant for all, y.expand(3) does.",
        ),
        (
            lambda: check_rows("f", x=ones(2, 3, 4), y=ones()),
            ValueError,
            f"f: y: expected shape [2, 3] (that of x without its last axis), got shape []. {RESHAPE} "
            "If one number is meant for all, y.expand(2, 3) does.",
        ),
        (
            lambda: check_actions("f", x=ones(3, 4), y=ones(3)),
            ValueError,
            f"f: y: expected shape [3, 4] (that of x), got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_actions("f", x=ones(3, 0)),
            ValueError,
            "f: x: expected a last axis of at least one dimension, "
            "got a tensor of shape [3, 0] and dtype torch.float32. Give it one.",
        ),
        (
            lambda: check_actions("f", {"q": flags(3)}, x=ones(3, 4)),
            TypeError,
            "f: q: expected a floating dtype, got a tensor of shape [3] and dtype torch.bool. "
            "Convert it with q.float() if that is what you mean.",
        ),
        (
            lambda: check_actions("f", {"q": ones(3, 1)}, x=ones(3, 4)),
            ValueError,
            f"f: q: expected shape [3] (that of x without its last axis), got shape [3, 1]. {RESHAPE} "
            "Here q.squeeze(-1) does.",
        ),
        (
            lambda: check_sequence("f", 0.9, {"x": ones(2), "y": ones(3)}),
            ValueError,
            f"f: y: expected shape [2] (that of x), got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_sequence("f", 0.9, {"x": ones()}),
            ValueError,
            "f: x: expected a last axis of at least one step, "
            "got a tensor of shape [] and dtype torch.float32. Give it one.",
        ),
        (
            lambda: check_sequence("f", 0.9, {"x": ones(2)}, done=flags(3)),
            ValueError,
            f"f: done: expected shape [2], got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_sequence("f", 1.01, {"x": ones(2)}),
            ValueError,
            "f: discount: expected a number in [0.0, 1.0], got 1.01. Choose discount from that interval.",
        ),
        (
            lambda: check_sequence("f", -0.01, {"x": ones(2)}),
            ValueError,
            "f: discount: expected a number in [0.0, 1.0], got -0.01. Choose discount from that interval.",
        ),
        (
            lambda: check_axis("f", "x", ones(2, 3), "step", 2),
            ValueError,
            "f: x: expected a last axis of 2 steps, got a tensor of shape [2, 3] and dtype torch.float32. "
            "Give it one entry for each step.",
        ),
        (
            lambda: check_some("f", "x", ones(0, 3), "sample"),
            ValueError,
            "f: x: expected a last axis of at least one sample, "
            "got a tensor of shape [0] and dtype torch.float32. Give it one.",
        ),
        (
            lambda: check_critics("f", x=flags(2)),
            TypeError,
            "f: x: expected a floating dtype, got a tensor of shape [2] and dtype torch.bool. "
            "Convert it with x.float() if that is what you mean.",
        ),
        (
            lambda: check_critics("f", x=ones()),
            ValueError,
            "f: x: expected a first axis of at least one critic, got a tensor of shape [] and dtype torch.float32. "
            "Stack the critics with torch.stack([first, second]).",
        ),
        (
            lambda: check_critics("f", what="model", least=2, x=ones(1)),
            ValueError,
            "f: x: expected a first axis of at least 2 models, got a tensor of shape [1] and dtype torch.float32. "
            "Stack the models with torch.stack([first, second]).",
        ),
        (
            lambda: check_critics("f", last="action", x=ones(2)),
            ValueError,
            "f: x: expected a first axis of at least one critic and a last axis of at least one action, "
            "got a tensor of shape [2] and dtype torch.float32. Stack the critics with torch.stack([first, second]). "
            "If each has one action, x.unsqueeze(-1) adds the axis.",
        ),
        (
            lambda: check_critics("f", last="action", x=ones(2, 0)),
            ValueError,
            "f: x: expected a first axis of at least one critic and a last axis of at least one action, "
            "got a tensor of shape [2, 0] and dtype torch.float32. "
            "Stack the critics with torch.stack([first, second]).",
        ),
        (
            lambda: check_critics("f", x=ones(0, 2)),
            ValueError,
            "f: x: expected a first axis of at least one critic, got a tensor of shape [0, 2] and dtype torch.float32. "
            "Stack the critics with torch.stack([first, second]).",
        ),
        (
            lambda: check_critics("f", x=ones(0)),
            ValueError,
            "f: x: expected a first axis of at least one critic, got a tensor of shape [0] and dtype torch.float32. "
            "Stack the critics with torch.stack([first, second]).",
        ),
        (
            lambda: check_count("f", "n", 1, 2),
            ValueError,
            "f: n: expected an int of at least 2, got 1 of type int. Choose n from that range.",
        ),
        (
            lambda: check_count("f", "n", 4, 2, 3),
            ValueError,
            "f: n: expected an int of at least 2 and at most 3, got 4 of type int. Choose n from that range.",
        ),
        (
            lambda: check_count("f", "n", 2.0, 2),  # type: ignore[arg-type]
            TypeError,
            "f: n: expected an int of at least 2, got 2.0 of type float. Choose n from that range.",
        ),
        (
            lambda: check_count("f", "n", True, 1),
            ValueError,
            "f: n: expected an int of at least 1, got True of type bool. Choose n from that range.",
        ),
        (
            lambda: check_index("f", "x", [0], "critic"),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected an int64 tensor, got a list of 1, the first 0 of type int. "
            "Number each critic from 0, torch.tensor([0, 1]).",
        ),
        (
            lambda: check_index("f", "x", torch.zeros(2, dtype=torch.int32), "critic"),
            TypeError,
            "f: x: expected an int64 tensor, got a tensor of shape [2] and dtype torch.int32. "
            "Number each critic from 0, torch.tensor([0, 1]).",
        ),
        (
            lambda: check_index("f", "x", torch.zeros((1, 2), dtype=torch.int64), "critic"),
            ValueError,
            "f: x: expected shape [M] of at least one critic, got a tensor of shape [1, 2] and dtype torch.int64. "
            "Give it one.",
        ),
        (
            lambda: check_index("f", "x", torch.zeros(0, dtype=torch.int64), "critic"),
            ValueError,
            "f: x: expected shape [M] of at least one critic, got a tensor of shape [0] and dtype torch.int64. "
            "Give it one.",
        ),
        (
            lambda: check_integers("f", "x", torch.Size([2]), y=ones(2)),
            TypeError,
            "f: y: expected an int64 tensor, got a tensor of shape [2] and dtype torch.float32. "
            "Convert it with torch.as_tensor(y).long() if these are whole numbers.",
        ),
        (
            lambda: check_integers("f", "x", torch.Size([2]), y=[1, 2]),  # type: ignore[arg-type]
            TypeError,
            "f: y: expected an int64 tensor, got a list of 2, the first 1 of type int. "
            "Convert it with torch.as_tensor(y).long() if these are whole numbers.",
        ),
        (
            lambda: check_integers("f", "x", torch.Size([3, 2]), y=torch.zeros(2, dtype=torch.int64)),
            ValueError,
            f"f: y: expected shape [3, 2] (that of x), got shape [2]. {RESHAPE}",
        ),
        (
            lambda: check_integers("f", "x", torch.Size([3, 2]), critics=True, y=torch.zeros(3, dtype=torch.int64)),
            ValueError,
            f"f: y: expected shape [3, 2] (that of x), got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_few_axes("f", "x", ones(1, 1, 1, 1)),
            ValueError,
            "f: x: expected shape [N, D] or [*batch, T, D], at most three axes, got shape [1, 1, 1, 1]. "
            "Pass x.flatten(1) for one number for each pixel, or x.movedim(1, -1).flatten(0, -2) "
            "for one for each channel.",
        ),
        (
            lambda: check_shape("f", "x", torch.Size([2]), y=ones(3)),
            ValueError,
            f"f: y: expected shape [2] (that of x), got shape [3]. {RESHAPE}",
        ),
        (
            lambda: check_shape("f", "a scalar", torch.Size([]), y=ones(3)),
            ValueError,
            "f: y: expected shape [] (that of a scalar), got shape [3]. "
            "Where each run has its own, map the function over the runs with torch.func.vmap.",
        ),
        (
            lambda: refuse_shape("f", "x", ones(2), [torch.Size([3]), torch.Size([2, 1])]),
            ValueError,
            f"f: x: expected shape [3] or shape [2, 1], got shape [2]. {RESHAPE} Here squeeze(-1) of the others does.",
        ),
        (
            lambda: check_knob("f", "x", 0.0, 0.0),
            ValueError,
            "f: x: expected a number in (0.0, inf), got 0.0. Choose x from that interval.",
        ),
        (
            lambda: check_knob("f", "x", math.inf, 0.0),
            ValueError,
            "f: x: expected a number in (0.0, inf), got inf. Choose x from that interval.",
        ),
        (
            lambda: check_knob("f", "x", math.nan, 0.0, 1.0, "[]"),
            ValueError,
            "f: x: expected a number in [0.0, 1.0], got nan. Choose x from that interval.",
        ),
        (
            lambda: check_knob("f", "x", True, 0.0),
            TypeError,
            "f: x: expected a float or a 0-d tensor, got True of type bool. "
            "Pass x as a Python number, or as a 0-d tensor to differentiate it.",
        ),
        (
            lambda: check_knob("f", "x", None, 0.0),  # type: ignore[arg-type]
            TypeError,
            "f: x: expected a float or a 0-d tensor, got None of type NoneType. "
            "Pass x as a Python number, or as a 0-d tensor to differentiate it.",
        ),
        (
            lambda: check_knob("f", "x", flags(), 0.0),
            TypeError,
            "f: x: expected a floating dtype, got a tensor of shape [] and dtype torch.bool. "
            "Convert it with x.float() if that is what you mean.",
        ),
        (
            lambda: check_knob("f", "x", ones(3), 0.0),
            ValueError,
            "f: x: expected shape [], got shape [3]. All of the batch is taken together: call it once for each number.",
        ),
        (
            lambda: check_knob("f", "x", ones(3), 0.0, shapes=[torch.Size([2])]),
            ValueError,
            "f: x: expected shape [] or shape [2] (any axis of it may be 1), got shape [3]. "
            "One for each row of [2] has the shape [1].",
        ),
        (
            lambda: check_knob("f", "x", ones(2, 4), 0.0, shapes=[torch.Size([2, 3])]),
            ValueError,
            "f: x: expected shape [] or shape [2, 3] (any axis of it may be 1), got shape [2, 4]. "
            "One for each row of [2, 3] has the shape [2, 1].",
        ),
        (
            lambda: check_knob("f", "x", ones(2, 3, 4), 0.0, shapes=[torch.Size([2, 3])]),
            ValueError,
            "f: x: expected shape [] or shape [2, 3] (any axis of it may be 1), got shape [2, 3, 4]. "
            "One for each row of [2, 3] has the shape [2, 1].",
        ),
        (
            lambda: check_knob("f", "x", ones(2, 5), 0.0, shapes=[torch.Size([2, 3, 4])]),
            ValueError,
            "f: x: expected shape [] or shape [2, 3, 4] (any axis of it may be 1), got shape [2, 5]. "
            "One for each row of [2, 3, 4] has the shape [2, 3, 1].",
        ),
        (
            lambda: check_knob("f", "x", ones(2), 0.0, shapes=[torch.Size([]), torch.Size([2, 3, 4])]),
            ValueError,
            "f: x: expected shape [] or shape [2, 3, 4] (any axis of it may be 1), got shape [2]. "
            "If each is for a whole row, x.unsqueeze(-1).unsqueeze(-1) does.",
        ),
        (
            lambda: check_knob("f", "x", ones(1, 3), 0.0, shapes=[torch.Size([2, 3, 4]), torch.Size([5])]),
            ValueError,
            "f: x: expected shape [] or shape [2, 3, 4] or shape [5] (any axis of it may be 1), got shape [1, 3]. "
            "If each is for a whole row, x.unsqueeze(-1) does.",
        ),
        (
            lambda: check_option("f", "x", "c", ("a", "b")),
            ValueError,
            "f: x: expected 'a' or 'b', got 'c'. Pass one of these.",
        ),
        (
            lambda: tail(reduction="all"),
            ValueError,
            "f: reduction: expected 'none' or 'mean' or 'sum', got 'all'. Pass one of these.",
        ),
        (
            lambda: tail(reduction="sum", denominator=2),
            ValueError,
            "f: denominator: expected None with reduction='sum', got 2 of type int. "
            'Only the mean has one: pass reduction="mean".',
        ),
        (
            lambda: tail(denominator=-1),
            ValueError,
            "f: denominator: expected a number in [0.0, inf), got -1. Choose denominator from that interval.",
        ),
        (
            lambda: tail(denominator=torch.tensor(2, dtype=torch.int16)),
            TypeError,
            "f: denominator: expected a floating dtype, got a tensor of shape [] and dtype torch.int16. "
            "Convert it with denominator.float() if that is what you mean.",
        ),
        (
            lambda: tail(weight=flags(3)),
            TypeError,
            "f: weight: expected a floating dtype, got a tensor of shape [3] and dtype torch.bool. "
            "Convert it with weight.float() if that is what you mean.",
        ),
        (
            lambda: tail(weight=ones(2)),
            ValueError,
            "f: weight: expected shape [3] or shape [2, 3], got shape [2]. Nothing is broadcast between samples. "
            "If each is for a whole row, weight.unsqueeze(-1).expand(2, 3) does.",
        ),
        (
            lambda: tail(weight=ones(3, 1)),
            ValueError,
            "f: weight: expected shape [3] or shape [2, 3], got shape [3, 1]. Nothing is broadcast between samples. "
            "Here weight.squeeze(-1) does.",
        ),
        (
            lambda: tail(weight=ones(2, 3, 1)),
            ValueError,
            "f: weight: expected shape [3] or shape [2, 3], got shape [2, 3, 1]. Nothing is broadcast between samples. "
            "Here weight.squeeze(-1) does.",
        ),
        (
            lambda: tail(weight=ones(2, 4)),
            ValueError,
            "f: weight: expected shape [3] or shape [2, 3], got shape [2, 4]. Nothing is broadcast between samples. "
            "Reshape it to match.",
        ),
        (
            lambda: tail(mask=flags(2, 1)),
            ValueError,
            "f: mask: expected shape [3] or shape [2, 3], got shape [2, 1]. Nothing is broadcast between samples. "
            "Here mask.expand(2, 3) does.",
        ),
        (
            lambda: tail(mask=flags(4)),
            ValueError,
            "f: mask: expected shape [3] or shape [2, 3], got shape [4]. Nothing is broadcast between samples. "
            "Reshape it to match.",
        ),
        (
            lambda: tail(mask=flags()),
            ValueError,
            "f: mask: expected shape [3] or shape [2, 3], got shape []. Nothing is broadcast between samples. "
            "Reshape it to match.",
        ),
        (
            lambda: tail(mask=True),
            TypeError,
            "f: mask: expected a bool tensor, got True of type bool. "
            "Convert it with torch.as_tensor(mask).bool() (True means that it holds).",
        ),
        (
            lambda: check_tail("f", torch.Size([2, 2, 3]), torch.Size([2, 2, 3]), None, ones(2), "mean", None),
            ValueError,
            "f: weight: expected shape [2, 2, 3], got shape [2]. Nothing is broadcast between samples. "
            "If each is for a whole row, weight.unsqueeze(-1).unsqueeze(-1).expand(2, 2, 3) does.",
        ),
        (
            lambda: check_tail("f", torch.Size([3, 3]), torch.Size([3, 3]), None, ones(3), "mean", None),
            ValueError,
            "f: weight: expected shape [3, 3], got shape [3]. Nothing is broadcast between samples. "
            "If each is for a whole row, weight.unsqueeze(-1).expand(3, 3) does. "
            "If the first axis holds critics, weight.expand(3, 3) does.",
        ),
        (
            lambda: check_tail("f", torch.Size([2, 3]), torch.Size([2, 3]), None, ones(3), "mean", None),
            ValueError,
            "f: weight: expected shape [2, 3], got shape [3]. Nothing is broadcast between samples. "
            "If the first axis holds critics, weight.expand(2, 3) does.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(refused: Callable[[], None], error: type[Exception], message: str) -> None:
    """By name, with what was expected, what came, and how to mend it."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        refused()


def test_only_given_arguments_are_present() -> None:
    """In their order."""
    x = ones(2)
    assert list(present(a=x, b=None, c=x)) == ["a", "c"]
