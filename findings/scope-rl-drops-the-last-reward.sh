#!/usr/bin/env bash
# SCOPE-RL 0.2.1. `OffPolicyEvaluation` and `CumulativeDistributionOPE` set rewards to zero "once done is observed", which is
# on by default and reads as if it meant the steps after an end. But `done` stands on the step that ends an episode, beside
# the reward of that step, in what `SyntheticDataset` writes as in any other dataset: so the last reward of each episode is
# zero for every estimator. A reward that comes at the end alone is never seen, and all policies are worth nothing.
# Seen, for a uniform policy that evaluates itself where three steps pay 1, 1 and 10: rolled out 12.0; by the estimators
# tis and pdis 2.0, and with `disable_reward_after_done=False` 12.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 scope-rl==0.2.1 d3rlpy==2.8.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import gym
import numpy
from d3rlpy.algos import DiscreteRandomPolicyConfig
from scope_rl.dataset import SyntheticDataset
from scope_rl.ope import OffPolicyEvaluation
from scope_rl.ope.discrete import PerDecisionImportanceSampling, TrajectoryWiseImportanceSampling
from scope_rl.ope.online import calc_on_policy_policy_value
from scope_rl.policy import EpsilonGreedyHead


class Three(gym.Env):
    observation_space = gym.spaces.Box(0.0, 3.0, (1,), numpy.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.steps = 0
        return numpy.zeros(1, numpy.float32), {}

    def step(self, action):
        self.steps += 1
        return numpy.full(1, self.steps, numpy.float32), (1.0, 1.0, 10.0)[self.steps - 1], self.steps == 3, False, {}


env, algorithm, episodes = Three(), DiscreteRandomPolicyConfig().create(), 20
algorithm.build_with_env(env)
uniform = EpsilonGreedyHead(algorithm, n_actions=2, epsilon=1.0, name="uniform", random_state=0)
log = SyntheticDataset(env=env, max_episode_steps=3).obtain_episodes(uniform, n_trajectories=episodes, random_state=0)
policy = {
    "evaluation_policy_action": None,
    "evaluation_policy_action_dist": numpy.full((3 * episodes, 2), 0.5),
    "state_action_value_prediction": None,
    "initial_state_value_prediction": None,
    "state_action_marginal_importance_weight": None,
    "state_marginal_importance_weight": None,
    "on_policy_policy_value": None,
    "gamma": 1.0,
    "behavior_policy": "uniform",
    "evaluation_policy": "same",
    "dataset_id": 0,
}
print("rolled out", calc_on_policy_policy_value(env, uniform, n_trajectories=episodes, step_per_trajectory=3))
estimators = [TrajectoryWiseImportanceSampling(), PerDecisionImportanceSampling()]
for options in ({}, {"disable_reward_after_done": False}):
    ope = OffPolicyEvaluation(logged_dataset=log, ope_estimators=estimators, **options)
    print({name: float(x) for name, x in ope.estimate_policy_value({"same": policy})["same"].items() if x is not None})
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep -E '^(rolled|\{)')
echo "$seen"
[ "$seen" = "rolled out 12.0
{'tis': 2.0, 'pdis': 2.0}
{'tis': 12.0, 'pdis': 12.0}" ]
