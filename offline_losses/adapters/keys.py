"""The one table from the library's argument names to TensorDict keys, as TorchRL names them."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

Key = str | tuple[str, ...]


class Entry(NamedTuple):
    """Where an argument lies in a TensorDict.

    Attributes:
        key: the entry's (nested) key; None where the caller has to name it.
        scalar: whether the argument is one number for each sample. TorchRL stores such entries as
            `[*batch, 1]` and the library takes `[*batch]`, so the trailing axis is dropped. An
            observation or an action keeps its own axes, also when there is just one number in it.
    """

    key: Key | None
    scalar: bool = True


KEYS = MappingProxyType(
    {
        "observation": Entry("observation", scalar=False),
        "action": Entry("action", scalar=False),
        "data_action": Entry("action", scalar=False),
        "next_observation": Entry(("next", "observation"), scalar=False),
        "reward": Entry(("next", "reward")),
        "terminated": Entry(("next", "terminated")),
        "truncated": Entry(("next", "truncated")),
        "done": Entry(("next", "done")),
        "episode": Entry("episode"),
        "value": Entry("state_value"),
        "next_value": Entry(("next", "state_value")),
        "target": Entry("value_target"),
        "advantage": Entry("advantage"),
        "q_data": Entry("state_action_value"),
        "q_candidates": Entry("action_value", scalar=False),
        "next_q": Entry(("next", "action_value"), scalar=False),
        "behavior_log_prob": Entry("action_log_prob"),
        "prediction": Entry(None),
        "logits": Entry(None, scalar=False),
        "hidden": Entry(None, scalar=False),
        "probability": Entry(None, scalar=False),
        "atoms": Entry(None, scalar=False),
        "support": Entry(None, scalar=False),
        "quantile": Entry(None, scalar=False),
        "noise": Entry(None, scalar=False),
        "velocity": Entry(None, scalar=False),
        "policy_action": Entry(None, scalar=False),
        "next_policy_action": Entry(None, scalar=False),
        "next_data_action": Entry(("next", "action"), scalar=False),
        "model_output": Entry(None, scalar=False),
        "point": Entry(None, scalar=False),
        "action_gradient": Entry(None, scalar=False),
        "unconditional": Entry(None, scalar=False),
        "conditional": Entry(None, scalar=False),
        "latent_mean": Entry(None, scalar=False),
        "latent_log_std": Entry(None, scalar=False),
        "log_weight": Entry(None, scalar=False),
        "data_observation": Entry("observation", scalar=False),
        "time": Entry(None),
        "alpha_bar": Entry(None),
        "step_variance": Entry(None),
        "log_prob": Entry(None),
        "next_log_prob": Entry(None),
        "reference_log_prob": Entry(None),
        "log_ratio": Entry(None),
        "ratio": Entry(None),
        "initial_value": Entry(None),
        "observed_return": Entry(None),
        "q_policy": Entry(None),
        "policy_probability": Entry(None),
        "propensity": Entry(None),
        "standard_error": Entry(None),
        "score": Entry(None, scalar=False),
        "other_score": Entry(None, scalar=False),
        "chosen_log_ratio": Entry(None),
        "rejected_log_ratio": Entry(None),
        "gap": Entry(None),
        "reference_value": Entry(None),
        "index": Entry(None),
        "episode_end": Entry(None),
        "random_index": Entry(None),
        "uniform": Entry(None, scalar=False),
        "distance": Entry(None),
        "subgoal_value": Entry(None),
        "value_to_subgoal": Entry(None),
        "next_value_to_subgoal": Entry(None),
        "positive": Entry(None),
        "push_distance": Entry(None),
        "step_distance": Entry(None),
        "first_value": Entry(None),
        "second_value": Entry(None),
        "first_steps": Entry(None),
        "second_steps": Entry(None),
        "mask": Entry(None),
        "weight": Entry(None),
    }
)
"""Argument name -> `Entry`.

The names without a key are numbers that the data alone cannot know, and taking a likely column for
them would be worse than asking: the dataset's `action_log_prob`, for one, is the behavior policy's,
and a loss of the learned policy that took it would run and teach nothing.
"""
