#!/usr/bin/env bash
# d3rlpy 2.8.1. BEAR's policy is to stay near the data: its loss has the distance between both, times a multiplier. But the
# multiplier's own update runs backward through the negative of that term while the policy's gradients are being gathered,
# so that the term comes in twice with opposite signs and is gone: after the warm-up the policy only follows the critic, and
# the multiplier grows without an effect. In the warm-up, where the multiplier is not updated, the term is there.
# Seen, the size of the policy's gradient with the multipliers 0.1, 1 and 10: in the warm-up it grows tenfold each time;
# behind it, it is the same three times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 d3rlpy==2.8.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import numpy
import torch
from d3rlpy.algos import BEARConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.torch_utility import TorchMiniBatch

rows, random = 64, numpy.random.RandomState(0)
states = random.uniform(-1.0, 1.0, (rows, 1)).astype(numpy.float32)
actions = random.uniform(0.5, 0.9, (rows, 1)).astype(numpy.float32)
data = MDPDataset(states, actions, -actions, numpy.ones(rows))
batch = data.sample_transition_batch(rows)
batch = TorchMiniBatch.from_batch(batch, gamma=0.99, compute_returns_to_go=False, device="cpu")


def sizes(multiplier):
    torch.manual_seed(0)
    algorithm = BEARConfig(initial_alpha=multiplier).create()
    algorithm.build_with_dataset(data)
    for compute in (algorithm.impl.compute_warmup_actor_grad, algorithm.impl.compute_actor_grad):
        torch.manual_seed(0)
        compute(batch)
        yield torch.cat([x.grad.flatten() for x in algorithm.impl.policy.parameters() if x.grad is not None]).norm()


first = [*sizes(0.1)]
for multiplier in (1.0, 10.0):
    print(multiplier, [round(float(x / y), 2) for x, y in zip(sizes(multiplier), first)])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep -E '^1')
echo "$seen"
[ "$seen" = "1.0 [10.0, 1.0]
10.0 [100.0, 1.0]" ]
