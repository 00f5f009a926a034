#!/usr/bin/env bash
# TorchRL 0.14.1. `vec_td_lambda_return_estimate` and `vec_generalized_advantage_estimate` raise an IndexError where
# lambda or the discount is zero, while the loops they stand for give the one-step return, or the reward. Zero is the end of
# the range of both, the first value of a sweep, and what turns lambda returns into TD(0). `TDLambdaEstimator` and `GAE`
# take the vectorized form by default, so that they raise too, with a message about a tuple that names neither.
# Seen, (discount, lambda), for the two pairs of functions: (0.9, 0.5) equal, equal; (0.9, 0.0) and (0.0, 0.9) IndexError,
# IndexError; and of the classes with lambda 0.0 by default and with `vectorized=False`: IndexError, [1.9, 1.9, 1.0].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.objectives.value import TDLambdaEstimator, functional

steps = 3
end = (torch.arange(steps) == steps - 1).unsqueeze(1)
reward, value, next_value = torch.ones(steps, 1), torch.zeros(steps, 1), torch.ones(steps, 1)


def attempt(compute):
    try:
        return compute()
    except IndexError as error:
        return type(error).__name__


def compare(discount, trace):
    yield functional.td_lambda_return_estimate, (discount, trace, next_value, reward, end, end)
    yield functional.generalized_advantage_estimate, (discount, trace, value, next_value, reward, end, end)


for pair in ((0.9, 0.5), (0.9, 0.0), (0.0, 0.9)):
    results = []
    for loop, values in compare(*pair):
        expected = torch.stack([*loop(*values)])
        vectorized = getattr(functional, f"vec_{loop.__name__}")
        results.append(attempt(lambda: torch.allclose(torch.stack([*vectorized(*values)]), expected)))
    print(*pair, results)

critic = TensorDictModule(torch.ones_like, in_keys=["observation"], out_keys=["state_value"])
after = {"observation": value, "reward": reward, "done": end, "terminated": end}
rows = TensorDict({"observation": value, "next": after}, [steps])
for options in ({}, {"vectorized": False}):
    estimator = TDLambdaEstimator(gamma=0.9, lmbda=0.0, value_network=critic, **options)
    print(attempt(lambda: [round(x, 2) for x in estimator.value_estimate(rows).flatten().tolist()]))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "0.9 0.5 [True, True]
0.9 0.0 ['IndexError', 'IndexError']
0.0 0.9 ['IndexError', 'IndexError']
IndexError
[1.9, 1.9, 1.0]" ]
