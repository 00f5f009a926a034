#!/usr/bin/env bash
# tianshou 2.0.1. The penalty of `CQL` lowers the values of random actions between `min_action` and `max_action`, at
# `num_repeat_actions` for each state. It draws them between minus `min_action` and `max_action`: with the bounds -1 and 1
# every one of them is exactly 1, so that the penalty pushes one corner of the actions down and knows nothing of the rest
# but the policy's own. With the bounds 0 and 2 it draws as it should. Nothing is said.
# Seen, the smallest and the largest of 640 actions at which the critic is asked for their values: [1.0, 1.0] with the
# bounds -1 and 1, and [0.0, 2.0] with 0 and 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 tianshou==2.0.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import gymnasium
import numpy
import torch
from tianshou.algorithm import CQL
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic
from tianshou.utils.torch_utils import policy_within_training_step


class Critic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(1))
        self.asked = []

    def forward(self, observation, action):
        self.asked.append(action.detach())
        return self.number + 0 * action


state = numpy.ones(1, numpy.float32)
buffer = ReplayBuffer(size=64)
for _ in range(64):
    step = {"obs": state, "act": numpy.zeros(1, numpy.float32), "rew": 1.0, "obs_next": state}
    buffer.add(Batch(terminated=True, truncated=False, info={}, **step))
for low, high in ((-1.0, 1.0), (0.0, 2.0)):
    torch.manual_seed(0)
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=(1,), hidden_sizes=[16]), action_shape=(1,), unbounded=True
    )
    space, adam, critic = gymnasium.spaces.Box(low, high, (1,)), AdamOptimizerFactory(), Critic()
    algorithm = CQL(
        policy=SACPolicy(actor=actor, action_space=space),
        policy_optim=adam,
        critic=critic,
        critic_optim=adam,
        min_action=low,
        max_action=high,
        num_repeat_actions=10,
        calibrated=False,
    )
    with policy_within_training_step(algorithm.policy):
        algorithm.update(buffer=buffer, sample_size=64)
    last = critic.asked[-1]
    print((low, high), len(last), [round(last.min().item(), 1), round(last.max().item(), 1)])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "(-1.0, 1.0) 640 [1.0, 1.0]
(0.0, 2.0) 640 [0.0, 2.0]" ]
