#!/usr/bin/env bash
# PyTorch 2.13.0 and 2.15.0. With `torch._dynamo.config.trace_autograd_ops`, a function compiled with fullgraph=True that
# calls `backward()` and also reads `optimizer.param_groups` computes the gradient in the graph of its first call. When a
# counter makes it compile once more, `backward()` in the new graph computes no gradient and says nothing: reading the
# groups has marked the parameter as a static input, which is no longer among the leaves that are looked for. A training
# loop that logs its learning rate stops training at the second compilation.
# Seen: [True, False, False, False], whether each call made a gradient; four times True was to be expected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.13.0}" numpy
cat > "$folder/run.py" <<'PY'
import torch

weight = torch.nn.Parameter(torch.ones(3))
parameters = [weight]
optimizer = torch.optim.Adam(parameters, lr=0.1)
agent = {"calls": 0}


def update(x):
    agent["calls"] += 1
    parameters[0].grad = None
    (weight * x).square().mean().backward()
    gradient = weight.grad
    parameters[0].grad = None
    return gradient, optimizer.param_groups[0]["lr"]


step = torch.compile(update, fullgraph=True, backend="eager")
with torch._dynamo.config.patch(trace_autograd_ops=True):
    print([step(torch.ones(3))[0] is not None for _ in range(4)])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[True, False, False, False]" ]
