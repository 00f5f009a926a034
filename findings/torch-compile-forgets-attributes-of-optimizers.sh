#!/usr/bin/env bash
# PyTorch 2.13.0. An optimizer of one's own that counts its steps (`self.count += 1`, to warm up or to correct a bias),
# stepped inside of a function under `torch.compile`, counts no further: the compiler sets attributes of every other
# object after its graph has run, but those of an optimizer never, and says nothing. The count is read as it was at the
# first call, and the parameters go elsewhere.
# Seen: the losses of four steps whose rate falls with the count, plain [0.75, 0.6769, 0.6435, 0.6222] with a count of 4
# in the end, compiled [0.75, 0.6769, 0.6109, 0.5513] with a count of 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.13.0}" numpy
cat > "$folder/run.py" <<'PY'
import torch


class Counting(torch.optim.Optimizer):
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"] / self.count)


def losses(wrap):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Counting([weight], lr=0.1)

    def update(x):
        loss = (weight * x).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    update = wrap(update)
    return [round(update(torch.full((3,), 0.5)).item(), 4) for _ in range(4)], optimizer.count


print(*losses(lambda f: f))
print(*losses(lambda f: torch.compile(f, backend="eager")))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[0.75, 0.6769, 0.6435, 0.6222] 4
[0.75, 0.6769, 0.6109, 0.5513] 0" ]
