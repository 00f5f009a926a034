#!/usr/bin/env bash
# flashbax 0.1.3 with JAX 0.10.2. A prioritized buffer gives what is added the largest priority so far, as in the paper, so
# that every new transition is likely to be seen once. The buffers for transitions and trajectories make an array of that
# priority after one of indices, and so of whole numbers: 1.9 becomes 1, and a new transition is drawn half as often as an
# old one with the largest priority. Only where all priorities are at most 1 nothing is lost.
# Seen, with three transitions of priority 1.9 and two that are added then, the chances of each: 0.247 three times and
# 0.13 twice, where all five should have 0.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flashbax==0.1.3 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import flashbax
import jax
import jax.numpy as jnp
import numpy

options = {"add_sequences": True, "priority_exponent": 1.0}
buffer = flashbax.make_prioritised_flat_buffer(max_length=64, min_length=1, sample_batch_size=64, **options)
state = buffer.init({"number": jnp.zeros(())})
state = buffer.add(state, {"number": jnp.arange(4.0)})
state = buffer.set_priorities(state, jnp.arange(3), jnp.full(3, 1.9))
state = buffer.add(state, {"number": jnp.arange(4.0, 6.0)})
sample = buffer.sample(state, jax.random.PRNGKey(0))
numbers, rows = numpy.unique(sample.experience.first["number"], return_index=True)
print([int(number) for number in numbers], [round(float(x), 3) for x in sample.probabilities[rows]])
PY
seen=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "[0, 1, 2, 3, 4] [0.247, 0.247, 0.247, 0.13, 0.13]" ]
