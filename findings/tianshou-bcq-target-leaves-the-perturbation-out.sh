#!/usr/bin/env bash
# tianshou 2.0.1. Batch-constrained Q-learning proposes actions by a model of the data, perturbs them a little, and takes
# the best; its target values the same kind of actions, perturbed by a slow copy of the network. `BCQ` keeps that copy and
# moves it, but the target never asks it: it is of unperturbed actions, and so of another policy than the one that acts.
# Seen, where the model proposes 0, the perturbation adds 0.5 and the critic says of an action its size: the policy acts 0.5,
# and so the target of a step without a reward is 0.5 if nothing is discounted. For such a step with the action 0 the
# critic's loss should be 0.5 squared, and is 0.0.
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
from tianshou.algorithm.imitation.bcq import BCQ, BCQPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch


class Zero(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(1))

    def forward(self, state, action):
        return action + self.offset, torch.zeros_like(state) + self.offset, torch.ones_like(state) + self.offset

    def decode(self, state):
        return torch.zeros_like(state) + self.offset


class Shift(Zero):
    def forward(self, state, action):
        return action + self.offset + 0.5


class Identity(Zero):
    def forward(self, state, action):
        return action + self.offset


box, optimizer = gymnasium.spaces.Box(-1.0, 1.0, (1,)), AdamOptimizerFactory(lr=1e-3)
networks = {"actor_perturbation": Shift(), "critic": Identity(), "vae": Zero()}
policy = BCQPolicy(**networks, action_space=box, observation_space=box)
optimizers = {f"{name}_optim": optimizer for name in networks}
algorithm = BCQ(policy=policy, **optimizers, gamma=1.0)
nothing, never = numpy.zeros((4, 1), numpy.float32), numpy.zeros(4, bool)
ends = {"done": never, "terminated": never, "truncated": never}
batch = Batch(obs=nothing, act=nothing, rew=nothing[:, 0], obs_next=nothing, **ends)
print("acts", float(policy(batch).act[0, 0]))
print("loss", algorithm._update_with_batch(batch).critic1_loss)
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "acts 0.5
loss 0.0" ]
