#!/usr/bin/env bash
# PyTorch 2.13.0 and 2.14.1. The derivative of `clamp` on its bound is one up to 2.13, and zero since 2.14 (a half where
# the bounds are tensors). A multiplier of a constraint, kept from becoming negative by `clamp(min=0)`, usually starts at
# zero: since 2.14 it has no gradient there and stays, however far the constraint is violated, where it used to rise.
# Nothing is said, and values are the same. `log_std` that starts on the bound to which it is clamped stays likewise.
# Seen, the multiplier of a constraint that is violated by 1, after ten steps of ascent at rate 0.1: 1.0 with 2.13.0,
# 0.0 with 2.14.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PY'
import torch

multiplier = torch.zeros((), requires_grad=True)
optimizer = torch.optim.SGD([multiplier], lr=0.1, maximize=True)
for _ in range(10):
    violation = torch.tensor(1.0)
    optimizer.zero_grad()
    (multiplier.clamp(min=0) * violation).backward()
    optimizer.step()
print(f"{torch.__version__.split('+')[0]}: {multiplier.item():.1f}")
PY
seen=""
for version in 2.13.0 2.14.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "torch==$version"
    seen+=$("$folder/$version/bin/python" "$folder/run.py" 2> /dev/null)$'\n'
done
echo "$seen"
[ "$seen" = "2.13.0: 1.0
2.14.1: 0.0
" ]
