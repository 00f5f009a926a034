"""The laws of padded sequences: padding never matters, and by what a sum is divided is what its name says."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close
from hypothesis import given
from hypothesis import strategies as st
from strategies import masks, tensors
from torch import Tensor

from offline_losses import sequence_action_loss, sequence_log_prob, squared_loss

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5))


@given(data=st.data())
def test_log_prob_is_that_of_the_steps_that_exist(data: st.DataObject) -> None:
    """As if each sequence were cut out: its sum, and over its length its mean; zero without steps."""
    shape = data.draw(shapes)
    log_prob, mask = data.draw(tensors(shape)), data.draw(masks(shape))
    total, mean = (sequence_log_prob(log_prob, mask, length_normalized=flag) for flag in (False, True))
    for i in range(shape[0]):
        tokens = log_prob[i][mask[i]]
        close(total[i], tokens.sum())
        close(mean[i], tokens.mean() if len(tokens) else 0.0)


@given(data=st.data())
def test_padding_never_matters(data: st.DataObject) -> None:
    """More of it, and whatever stands there, changes no value and no gradient."""
    shape = data.draw(shapes)
    log_prob, mask = data.draw(tensors(shape)), data.draw(masks(shape))
    prediction, target = (data.draw(tensors((*shape, 2))) for _ in range(2))

    def padded(x: Tensor, filler: float) -> Tensor:
        hole = mask.view(*mask.shape, *[1] * (x.ndim - 2))
        return torch.cat([torch.where(hole, x, filler), torch.full_like(x[:, :1], filler)], 1)

    more = torch.cat([mask, torch.zeros_like(mask[:, :1])], 1)
    for filler in (math.nan, -math.inf, 1e300):
        for flag in (False, True):
            expected = sequence_log_prob(log_prob, mask, length_normalized=flag)
            close(sequence_log_prob(padded(log_prob, filler), more, length_normalized=flag), expected)
        loss = sequence_action_loss(padded(prediction, filler), padded(target, filler), mask=more)
        close(loss, sequence_action_loss(prediction, target, mask=mask))
        x = padded(prediction, filler).requires_grad_()
        sequence_action_loss(x, padded(target, filler), mask=more).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert (x.grad[~more] == 0).all()


@given(data=st.data())
def test_action_loss_is_the_mean_over_steps_and_dimensions(data: st.DataObject) -> None:
    """Of the steps that exist, laid one after the other; over all steps it is smaller by the share of padding."""
    shape = data.draw(shapes)
    prediction, target = (data.draw(tensors((*shape, 3))) for _ in range(2))
    mask = data.draw(masks(shape))
    loss = sequence_action_loss(prediction, target, mask=mask)
    expected = squared_loss(prediction[mask], target[mask])
    close(loss, expected)
    of_all = sequence_action_loss(prediction, target, mask=mask, denominator=mask.numel())
    close(of_all, expected * mask.double().mean())
    weight = data.draw(tensors(shape, 0.0, 3.0))
    weighed = sequence_action_loss(prediction, target, mask=mask, weight=weight, denominator=mask.numel())
    close(weighed, (weight * mask * (prediction - target).square().mean(-1)).mean())


def test_only_the_prediction_moves() -> None:
    """The data's actions receive no gradient."""
    action = torch.ones(2, 3, 1, requires_grad=True)
    loss = sequence_action_loss(torch.zeros(2, 3, 1, requires_grad=True), action)
    loss.backward()
    assert action.grad is None


def test_an_empty_batch_of_all_steps() -> None:
    """Nothing divided by nothing is zero."""
    nothing = torch.zeros(0, 4, 2)
    assert sequence_action_loss(nothing, nothing, denominator=nothing[..., 0].numel()) == 0


def test_a_mask_of_the_dimensions_too_is_refused() -> None:
    """It has one flag for each step."""
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"sequence_action_loss: mask: expected shape \[2, 3\], got shape \[2, 3, 4\]"):
        sequence_action_loss(x, x, mask=torch.ones(2, 3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"sequence_log_prob: mask: expected shape \[2, 3\]"):
        sequence_log_prob(torch.zeros(2, 3), torch.ones(3, dtype=torch.bool))


def test_a_sum_is_the_default_and_of_nothing_there_is_none() -> None:
    """The log-probability itself; a sequence has steps, and an action dimensions."""
    log_prob = torch.tensor([-1.0, -2.0])
    assert sequence_log_prob(log_prob, torch.ones(2, dtype=torch.bool)) == -3
    for shape in ((), (2, 0)):
        with pytest.raises(ValueError, match="sequence_log_prob: log_prob: expected a last axis of at least one step"):
            sequence_log_prob(torch.zeros(shape), torch.ones(shape, dtype=torch.bool))
        with pytest.raises(ValueError, match="sequence_action_loss: prediction: expected a last axis of at least one"):
            sequence_action_loss(torch.zeros(shape), torch.zeros(shape))
