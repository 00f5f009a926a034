#!/usr/bin/env bash
# TorchRL 0.14.1. With `with_lagrange=True`, `CQLLoss` returns the penalty as `loss_cql`, without its multiplier, and the
# multiplier's own loss as `loss_alpha_prime`, minus half the multiplier times the penalty, in which the penalty is not
# detached. All losses are summed, as is done with those of any loss module, and so the critics' gradient of the penalty is
# multiplied by 1 - multiplier / 2: where the constraint is violated and the multiplier rises to enforce it, the penalty
# fades, is gone at 2, and beyond that raises the values of actions outside of the data. It should grow with the multiplier.
# Seen, the derivative of `loss_cql` and `loss_alpha_prime` together by a critic's parameter, divided by the one without a
# multiplier, for the multipliers 0.5, 1, 2, 4: [0.75, 0.5, 0.0, -1.0].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy
cat > "$folder/run.py" <<'PY'
import math

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal
from torchrl.objectives import CQLLoss


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))

    def forward(self, observation):
        mean = self.number + 0 * observation
        return mean, torch.ones_like(mean)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, observation, action):
        return self.slope * action + 0 * observation


policy = TensorDictModule(Policy(), ["observation"], ["loc", "scale"])
actor = ProbabilisticActor(
    policy, in_keys=["loc", "scale"], spec=Bounded(-1.0, 1.0, (1,)), distribution_class=TanhNormal
)
critic = TensorDictModule(Critic(), ["observation", "action"], ["state_action_value"])
zero, no = torch.zeros(256, 1), torch.zeros(256, 1, dtype=torch.bool)
following = {"observation": zero, "reward": zero, "done": no, "terminated": no}
batch = TensorDict({"observation": zero, "action": zero - 0.5, "next": following}, [256])


def slope(multiplier):
    loss = CQLLoss(actor, critic, with_lagrange=multiplier is not None)
    if multiplier is not None:
        nn.init.constant_(loss.log_alpha_prime, math.log(multiplier))
    torch.manual_seed(0)
    found = loss(batch.clone())
    total = found["loss_cql"] + (0 if multiplier is None else found["loss_alpha_prime"])
    total.backward()
    (parameter,) = loss.qvalue_network_params.flatten_keys().values()
    return parameter.grad[0].item()


print([abs(x) if x == 0 else x for x in (round(slope(m) / slope(None), 2) for m in (0.5, 1.0, 2.0, 4.0))])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[0.75, 0.5, 0.0, -1.0]" ]
