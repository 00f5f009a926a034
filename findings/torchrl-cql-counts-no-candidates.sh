#!/usr/bin/env bash
# TorchRL 0.14.1. The penalty of `CQLLoss` is a logsumexp over the candidate actions of a state, of which `num_random`
# are drawn from each of three distributions. It joins the three along the last axis, which has one element, and not along
# that of the candidates: so the logsumexp runs over three numbers and not over 3 * num_random, for each candidate apart,
# and more candidates make nothing of the penalty but less noise. With a critic that is the same everywhere the penalty
# must rise by log 10 for each of the two critics, 4.6 in all, when there are ten times as many.
# Seen, the penalty with 1, 10 and 100: [3.6, 3.6, 3.6].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy
cat > "$folder/run.py" <<'PY'
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal
from torchrl.objectives import CQLLoss


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))


class Policy(Constant):
    def forward(self, observation):
        mean = self.number + 0 * observation
        return mean, torch.ones_like(mean)


class Critic(Constant):
    def forward(self, observation, action):
        return self.number + 0 * action


policy = TensorDictModule(Policy(), ["observation"], ["loc", "scale"])
actor = ProbabilisticActor(
    policy, in_keys=["loc", "scale"], spec=Bounded(-1.0, 1.0, (1,)), distribution_class=TanhNormal
)
critic = TensorDictModule(Critic(), ["observation", "action"], ["state_action_value"])
zero, no = torch.zeros(256, 1), torch.zeros(256, 1, dtype=torch.bool)
following = {"observation": zero, "reward": zero, "done": no, "terminated": no}
batch = TensorDict({"observation": zero, "action": zero, "next": following}, [256])
torch.manual_seed(0)
losses = [CQLLoss(actor, critic, num_random=n, with_lagrange=False)(batch.clone()) for n in (1, 10, 100)]
print([round(loss["loss_cql"].item(), 1) for loss in losses])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[3.6, 3.6, 3.6]" ]
