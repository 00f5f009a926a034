#!/usr/bin/env bash
# PyTorch 2.13.0 on the CPU. A function compiled by Dynamo (any backend) that writes a learning rate into the groups of
# an Adam, as a schedule by hand does, also sets `capturable` of the group to True, which nobody asked for. The setting
# goes into checkpoints, where loading code for a card takes it for the user's. 2.15.0 leaves it alone.
# Seen: False 0.1, then True 0.09; only the rate was to change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/run.py" <<'PY'
import torch

weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.Adam([weight], lr=0.1)
weight.grad = torch.ones(3)
optimizer.step()


@torch.compile(backend="eager")
def decay(x):
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0.9
    return x + 1


group = optimizer.param_groups[0]
print(group["capturable"], group["lr"])
decay(torch.ones(3))
print(group["capturable"], round(group["lr"], 6))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | tr '\n' ' ')
echo "$seen"
[ "$seen" = "False 0.1 True 0.09 " ]
