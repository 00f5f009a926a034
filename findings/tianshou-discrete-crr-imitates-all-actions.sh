#!/usr/bin/env bash
# tianshou 2.0.1. `DiscreteCRR` is to imitate the data's actions by weights of their advantages: with "binary" only those
# of positive advantage. Its log-probabilities have the shape [B] and its weights [B, 1], so that their product is [B, B]
# and each action gets the mean weight of the batch: whichever mode is chosen, the policy becomes the behavior policy. The
# critic is right all along. One state, two actions, of which the second brings the reward 1 and is a fifth of the data:
# "binary" must end at a probability of 1 for it, and "all", which is behavior cloning, at 0.2.
# Seen, the critic's values and the probability: binary [0.0, 1.0] 0.2, all [0.0, 1.0] 0.2.
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
from tianshou.algorithm import DiscreteCRR
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step

state = numpy.ones(1, numpy.float32)
buffer = ReplayBuffer(size=100)
for row in range(100):
    good = row % 5 == 0
    step = {"obs": state, "act": int(good), "rew": float(good), "obs_next": state}
    buffer.add(Batch(terminated=True, truncated=False, info={}, **step))
for mode in ("binary", "all"):
    torch.manual_seed(0)
    nets = [Net(state_shape=(1,), hidden_sizes=[16]) for _ in range(2)]
    actor = DiscreteActor(preprocess_net=nets[0], action_shape=(2,), softmax_output=False)
    critic = DiscreteCritic(preprocess_net=nets[1], last_size=2)
    algorithm = DiscreteCRR(
        policy=DiscreteActorPolicy(actor=actor, action_space=gymnasium.spaces.Discrete(2)),
        critic=critic,
        optim=AdamOptimizerFactory(lr=0.003),
        policy_improvement_mode=mode,
        min_q_weight=0.0,
    )
    with policy_within_training_step(algorithm.policy):
        for _ in range(2000):
            algorithm.update(buffer=buffer, sample_size=None)
    with torch.no_grad():
        values, logits = critic(state[None]), actor(state[None])[0]
    print(mode, [abs(round(x, 1)) for x in values[0].tolist()], round(logits.softmax(-1)[0, 1].item(), 1))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "binary [0.0, 1.0] 0.2
all [0.0, 1.0] 0.2" ]
