#!/usr/bin/env bash
# PyTorch 2.13.0. `linear_cross_entropy` takes hidden states and a vocabulary's head, and with
# `LinearCrossEntropyOptions()` never holds the logits of all tokens. Its value and first gradient are those of the plain
# path. But forward-mode differentiation gives exactly zero, the gradient with `create_graph=True` is a constant, so that
# a penalty on it trains nothing, and neither says a word. And where all tokens of a micro-batch are ignored, the
# gradient is NaN where the plain path gives zeros: one batch of prompts alone ruins the head.
# Seen, plain and then chunked: [-0.0674, True, 0.0] and [0.0, False, nan]: the derivative in one direction, whether the
# gradient can be differentiated, and an element of the gradient with every token ignored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.13.0}" numpy
cat > "$folder/run.py" <<'PY'
import torch
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

torch.manual_seed(0)
head = torch.randn(7, 3, dtype=torch.float64)
hidden = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
tokens, ignored = torch.arange(6), torch.full((6,), -100)
for options in (None, LinearCrossEntropyOptions()):

    def loss(x, target=tokens):
        return linear_cross_entropy(x, head, target, options=options)

    slope = torch.func.jvp(loss, (hidden.detach(),), (torch.ones_like(hidden),))[1]
    (gradient,) = torch.autograd.grad(loss(hidden), hidden, create_graph=True)
    (nothing,) = torch.autograd.grad(loss(hidden, ignored), hidden)
    print([round(slope.item(), 4), gradient.requires_grad, nothing[0, 0].item()])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[-0.0674, True, 0.0]
[0.0, False, nan]" ]
