#!/usr/bin/env bash
# tianshou 2.0.1. With `n_step_return_horizon` above 1, `C51` adds up the rewards of n steps and discounts by n, but takes the
# distribution behind them from the state that follows the first step: the rewards between are counted twice and more.
# `RainbowDQN` inherits it, and is meant for n = 3. `QRDQN` and the others ask for the state after n steps.
# Seen, undiscounted values of the states of an episode that pays 1 at each of four steps, with n = 1, 2 and 3: by `QRDQN`
# [4.0, 3.0, 2.0, 1.0] for each; by `C51` that for 1, [6.0, 4.0, 2.0, 1.0] for 2 and [6.0, 3.0, 2.0, 1.0] for 3.
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
from tianshou.algorithm import C51, QRDQN
from tianshou.algorithm.modelfree.c51 import C51Policy
from tianshou.algorithm.modelfree.qrdqn import QRDQNPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step


class Table(torch.nn.Module):
    def __init__(self, of_chances):
        super().__init__()
        self.numbers, self.of_chances = torch.nn.Parameter(torch.zeros(5, 1, 21)), of_chances

    def forward(self, obs, state=None, info=None):
        rows = self.numbers[torch.as_tensor(obs).long().flatten()]
        return (rows.softmax(-1) if self.of_chances else rows), state


buffer = ReplayBuffer(size=4)
for step in range(4):
    row = {"obs": numpy.array([step]), "act": numpy.array(0), "rew": 1.0, "obs_next": numpy.array([step + 1])}
    buffer.add(Batch(terminated=step == 3, truncated=False, info={}, **row))
space, adam = gymnasium.spaces.Discrete(1), AdamOptimizerFactory(lr=0.05)
for steps in (1, 2, 3):
    options = {"optim": adam, "gamma": 1.0, "n_step_return_horizon": steps}
    chances = C51Policy(model=Table(True), action_space=space, num_atoms=21, v_min=0.0, v_max=10.0)
    quantiles = QRDQNPolicy(model=Table(False), action_space=space)
    for algorithm in (C51(policy=chances, **options), QRDQN(policy=quantiles, num_quantiles=21, **options)):
        policy = algorithm.policy
        with policy_within_training_step(policy):
            for _ in range(1500):
                algorithm.update(buffer=buffer, sample_size=32)
        values = policy.compute_q_value(policy.model(numpy.arange(4))[0], None)
        print(steps, type(algorithm).__name__, [round(x, 1) for x in values.flatten().tolist()])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "1 C51 [4.0, 3.0, 2.0, 1.0]
1 QRDQN [4.0, 3.0, 2.0, 1.0]
2 C51 [6.0, 4.0, 2.0, 1.0]
2 QRDQN [4.0, 3.0, 2.0, 1.0]
3 C51 [6.0, 3.0, 2.0, 1.0]
3 QRDQN [4.0, 3.0, 2.0, 1.0]" ]
