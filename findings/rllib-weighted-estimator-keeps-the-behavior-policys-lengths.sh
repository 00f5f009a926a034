#!/usr/bin/env bash
# RLlib 2.58.0. `WeightedImportanceSampling` divides the weights of a step by their mean over the episodes that reach it, and
# the sum by the number of all episodes, where its docstring too divides the weights by all. The weights of episodes that have ended are left out of that mean, so that the share
# of episodes which live on is the behavior policy's: where actions decide how long an episode is, more data do not help.
# `v_gain` divides by 1e-8 where the behavior policy's value is negative.
# Seen, for a policy that always goes on, to a second step that pays 1, and data that end at once in every other episode: 1.0 by
# `ImportanceSampling`, which is its value, and 0.5 by the weighted one, for 100 episodes and for 10000; with a reward of -1
# for 1 the gain is -100000000.0 and -50000000.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 "ray[rllib]==2.58.0" numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import numpy
from gymnasium.spaces import Box, Discrete
from ray.rllib.offline.estimators import ImportanceSampling, WeightedImportanceSampling
from ray.rllib.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch, concat_samples


class GoOn(Policy):
    compute_actions = None

    def compute_log_likelihoods(self, actions, *args, **kwargs):
        return numpy.log(numpy.where(actions == 1, 1.0, 1e-30))


def episode(number, pays):
    steps = 1 + number % 2
    return SampleBatch(
        eps_id=numpy.full(steps, number),
        obs=numpy.zeros((steps, 1)),
        actions=numpy.full(steps, number % 2),
        action_prob=numpy.array([0.5, 1.0][:steps]),
        rewards=numpy.array([0.0, pays][:steps]),
        terminateds=numpy.arange(steps) == steps - 1,
        truncateds=numpy.zeros(steps, bool),
    )


policy = GoOn(Box(-1, 1, (1,)), Discrete(2), {})
for count, pays in ((100, 1.0), (10000, 1.0), (100, -1.0)):
    data = concat_samples([episode(number, pays) for number in range(count)])
    for kind in (ImportanceSampling, WeightedImportanceSampling):
        found = kind(policy, gamma=1.0).estimate(data)
        print(kind.__name__, count, *(float(found[key]) for key in ("v_behavior", "v_target", "v_gain")))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep 'ImportanceSampling')
echo "$seen"
[ "$seen" = "ImportanceSampling 100 0.5 1.0 2.0
WeightedImportanceSampling 100 0.5 0.5 1.0
ImportanceSampling 10000 0.5 1.0 2.0
WeightedImportanceSampling 10000 0.5 0.5 1.0
ImportanceSampling 100 -0.5 -1.0 -100000000.0
WeightedImportanceSampling 100 -0.5 -0.5 -50000000.0" ]
