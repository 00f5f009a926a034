"""The laws of what lies off the data: who is pushed which way, how far, and what masks and proportions change."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, candidate_masks, masks, reals, tensors
from torch import Tensor

from offline_losses import candidate_max_value, combo_penalty, ensemble_min, mcq_loss, soft_value, squared_loss


@st.composite
def batch_of_both(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """q and rollout flags [B], with at least one sample of each kind."""
    size = draw(st.integers(2, 8))
    rollout = draw(masks((size,)))
    rollout[0], rollout[1] = True, False
    return draw(tensors((size,))), rollout


@given(batch=batch_of_both(), data=st.data())
def test_combo_is_the_difference_of_two_means(batch: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    """In whatever proportion they come; with a mask, of those that exist; with a shift of all, the same."""
    q, rollout = batch
    close(combo_penalty(q, rollout), q[rollout].mean() - q[~rollout].mean())
    close(combo_penalty(q, rollout, reduction="none"), ORACLES["combo_penalty"](q.numpy(), rollout.numpy()))
    close(combo_penalty(q + data.draw(reals()), rollout), combo_penalty(q, rollout))
    mask = data.draw(masks(q.shape))
    mask[:2] = True
    close(combo_penalty(q, rollout, mask=mask), combo_penalty(q[mask], rollout[mask]))
    order = torch.tensor(data.draw(st.permutations(range(len(q)))))
    close(combo_penalty(q[order], rollout[order]), combo_penalty(q, rollout))


@given(batch=batch_of_both())
def test_combo_pushes_rollouts_down_and_data_up(batch: tuple[Tensor, Tensor]) -> None:
    """Minimizing lowers Q on rollouts and raises it on data, by equal sums: one each."""
    q, rollout = batch
    (slope,) = gradients(lambda x: combo_penalty(x, rollout), q)
    assert (slope[rollout] > 0).all()
    assert (slope[~rollout] < 0).all()
    close(slope[rollout].sum(), 1.0)
    close(slope[~rollout].sum(), -1.0)


@given(q=tensors((2, 5)), rollout=masks((5,)))
def test_combo_of_several_critics_is_the_mean_of_each(q: Tensor, rollout: Tensor) -> None:
    """A critic axis before the batch is averaged over, as everywhere."""
    close(combo_penalty(q, rollout), torch.stack([combo_penalty(each, rollout) for each in q]).mean())


@given(q=tensors((4,)))
def test_combo_of_one_kind_alone_is_its_mean(q: Tensor) -> None:
    """Rollouts alone are pushed down, data alone is raised; nothing is divided by zero."""
    flags = torch.ones(4, dtype=torch.bool)
    close(combo_penalty(q, flags), q.mean())
    close(combo_penalty(q, ~flags), -q.mean())
    assert combo_penalty(q, flags, mask=~flags) == 0


@given(data=st.data())
def test_combo_of_a_soft_maximum_reaches_the_candidates(data: st.DataObject) -> None:
    """A soft maximum over actions in a rollout's state, as in public code: its gradient pushes candidates down."""
    q, rollout = data.draw(batch_of_both())
    candidates = data.draw(tensors((len(q), 3)))

    def penalty(x: Tensor) -> Tensor:
        return combo_penalty(torch.where(rollout, soft_value(x), q), rollout)

    close(penalty(candidates), soft_value(candidates)[rollout].mean() - q[~rollout].mean())
    (slope,) = gradients(penalty, candidates)
    assert (slope[rollout] > 0).all()
    assert (slope[~rollout] == 0).all()


@given(data=st.data())
def test_mcq_is_a_squared_loss_with_the_best_of_the_data(data: st.DataObject) -> None:
    """The minimizer over constants is the best candidate: the value of any action off the data."""
    batch = data.draw(batches(1, 2))
    target = data.draw(tensors((*batch, 3)))
    prediction = data.draw(tensors((2, *batch)))
    close(mcq_loss(prediction, target), squared_loss(prediction, target.amax(-1)))
    close(mcq_loss(prediction, target, reduction="none"), ORACLES["mcq_loss"](prediction.numpy(), target.numpy()))
    assert mcq_loss(target.amax(-1), target) == 0
    (slope,) = gradients(lambda x: mcq_loss(x, target, reduction="sum"), prediction)
    close(slope, 2 * (prediction - target.amax(-1)))


@given(data=st.data())
def test_mcq_leaves_out_candidates_that_do_not_exist(data: st.DataObject) -> None:
    """Minus infinity is no candidate, and a sample without any has no loss and no gradient."""
    target, prediction = data.draw(tensors((4, 3))), data.draw(tensors((4,)))
    exists = data.draw(candidate_masks((4, 3)))
    exists[0] = False
    hidden = torch.where(exists, target, -torch.inf)
    loss = mcq_loss(prediction, hidden, reduction="none")
    for i in range(1, 4):
        close(loss[i], (target[i][exists[i]].max() - prediction[i]).square())
    assert loss[0] == 0
    (slope,) = gradients(lambda x: mcq_loss(x, hidden), prediction)
    assert slope[0] == 0
    assert slope.isfinite().all()


def test_mcq_with_the_pessimistic_target_of_several_critics() -> None:
    """The smaller critic of each candidate, then the best candidate."""
    q = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]])
    close(mcq_loss(torch.zeros(1), ensemble_min(q)), candidate_max_value(q, order="min_then_max").square().squeeze())


def test_what_does_not_fit_is_refused() -> None:
    """Flags that are no flags of these samples, and a policy's value for each candidate."""
    with pytest.raises(ValueError, match=r"combo_penalty: rollout: expected shape \[3\]"):
        combo_penalty(torch.zeros(3), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"combo_penalty: rollout: expected shape \[3\]"):
        combo_penalty(torch.zeros(3), torch.tensor(True))
    with pytest.raises(TypeError, match=r"Convert it with torch.as_tensor\(rollout\)"):
        combo_penalty(torch.zeros(2), [True, False])
    with pytest.raises(ValueError, match=r"mcq_loss: target: expected shape \[3, 2, N\] .* target.unsqueeze\(-1\)"):
        mcq_loss(torch.zeros(3, 2), torch.zeros(3, 2))
