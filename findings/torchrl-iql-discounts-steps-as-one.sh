#!/usr/bin/env bash
# TorchRL 0.14.1. With `MultiStep` each row holds the rewards of n steps, and "steps_to_next_obs", by which the losses raise
# the discount for the value that follows. `IQLLoss`, `DiscreteIQLLoss` and `REDQLoss` choose the entries that they pass on
# to the value estimator, and this one is not among them: their next value is discounted once, however many steps lie
# between. `CQLLoss` and `TD3BCLoss` pass it on, so that the same rows have other targets with one loss than with the other.
# Seen, the target of rows without a reward, three steps before a value of 100, with a discount of 0.5, so 12.5: CQLLoss
# and TD3BCLoss 12.5; IQLLoss, DiscreteIQLLoss and REDQLoss 50.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.data import Bounded
from torchrl.data.postprocs import MultiStep
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import CQLLoss, DiscreteIQLLoss, IQLLoss, REDQLoss, TD3BCLoss


class Constant(torch.nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.value = torch.nn.Parameter(torch.full((width,), 100.0))

    def forward(self, state, *action):
        return self.value.expand(*state.shape[:-1], -1)


def value(width=1, keys=("observation",), **options):
    return ValueOperator(Constant(width), in_keys=[*keys], **options)


def actor(parameters, kind):
    return ProbabilisticActor(parameters, in_keys=[*parameters.out_keys], distribution_class=kind, return_log_prob=True)


torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 2), NormalParamExtractor())
normal = actor(TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]), TanhNormal)
discrete = TensorDictModule(torch.nn.Linear(1, 2), in_keys=["observation"], out_keys=["logits"])
discrete = actor(discrete, torch.distributions.Categorical)
plain = TensorDictModule(torch.nn.Linear(1, 1), in_keys=["observation"], out_keys=["action"])
q, options = value(keys=("observation", "action")), {"action_spec": Bounded(-1, 1, (1,)), "loss_function": "l1"}
losses = [
    CQLLoss(normal, q, alpha_init=1e-9, **options),
    TD3BCLoss(plain, q, **options),
    IQLLoss(normal, q, value(), loss_function="l1"),
    DiscreteIQLLoss(discrete, value(2, out_keys=["state_action_value"]), value(), action_space="categorical"),
    REDQLoss(normal, q, alpha_init=1e-9, **options),
]
steps, nothing = 4, torch.zeros(4, 1)
for loss in losses:
    number = isinstance(loss, DiscreteIQLLoss)
    action = torch.zeros(steps, dtype=torch.long) if number else nothing
    after = {"observation": nothing, "reward": nothing, "done": nothing.bool(), "terminated": nothing.bool()}
    rollout = TensorDict({"observation": nothing, "action": action, "next": after}, [steps])
    rows = MultiStep(n_steps=3, gamma=0.5)(rollout)[:1]
    loss.make_value_estimator(gamma=0.5)
    loss(rows)
    print(type(loss).__name__, round(100 - rows["td_error"].sqrt().item(), 1))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep Loss)
echo "$seen"
[ "$seen" = "CQLLoss 12.5
TD3BCLoss 12.5
IQLLoss 50.0
DiscreteIQLLoss 50.0
REDQLoss 50.0" ]
