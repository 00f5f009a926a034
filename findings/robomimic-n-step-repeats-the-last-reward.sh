#!/usr/bin/env bash
# robomimic 0.3.0. With `n_step` above 1, TD3-BC, BCQ and CQL add up the rewards of a sequence of n steps. Sequences that reach
# over the end of a demonstration are filled up with copies of its last step, and so of its last reward, which is added each
# time; the mask that tells the copies apart is not read. In demonstrations that pay once, at their success, the last state
# is worth up to n times what it earns, and more than the success itself.
# Seen, for four steps that pay 0, 0, 0 and 1, n = 3 and a discount of 0.5, the rows' rewards: 0.0, 0.25, 0.75 and 1.75, where
# 0.0, 0.25, 0.5 and 1.0 is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="h5py==3.16.0 matplotlib==3.11.2 numpy==1.26.4 psutil==7.2.2 six==1.17.0 termcolor==3.3.0 tqdm==4.70.1"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs
"$folder/venv/bin/pip" install --quiet --no-deps robomimic==0.3.0
cat > "$folder/run.py" <<'PY'
import sys
from unittest.mock import MagicMock

import h5py
import numpy
import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = MagicMock()  # imported for images, and not used here
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic.utils.dataset import SequenceDataset
from robomimic.utils.obs_utils import initialize_obs_utils_with_config

states = numpy.arange(5, dtype=numpy.float32)[:, None]
with h5py.File(sys.argv[1], "w") as file:
    demonstration = file.create_group("data/demo_0")
    demonstration.attrs["num_samples"] = 4
    last = numpy.array([0.0, 0.0, 0.0, 1.0])
    columns = {"obs/state": states[:-1], "next_obs/state": states[1:], "actions": 0 * states[1:]}
    for key, column in {**columns, "rewards": last, "dones": last}.items():
        demonstration[key] = column
for name in ("td3_bc", "cql"):
    config = config_factory(name)
    with config.values_unlocked():
        config.observation.modalities.obs.low_dim = ["state"]
        config.algo.n_step, config.algo.discount = 3, 0.5
    initialize_obs_utils_with_config(config)
    keys = ("actions", "rewards", "dones")
    data = SequenceDataset(sys.argv[1], obs_keys=["state"], dataset_keys=keys, seq_length=3, load_next_obs=True)
    algorithm = algo_factory(name, config, {"state": [1]}, 1, torch.device("cpu"))
    rows = algorithm.process_batch_for_training(next(iter(torch.utils.data.DataLoader(data, batch_size=4))))
    print("rows", rows["rewards"].flatten().tolist(), rows["dones"].flatten().tolist())
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" "$folder/small.hdf5" 2> /dev/null | grep '^rows')
echo "$seen"
[ "$seen" = "rows [0.0, 0.25, 0.75, 1.75] [0.0, 1.0, 1.0, 1.0]
rows [0.0, 0.25, 0.75, 1.75] [0.0, 1.0, 1.0, 1.0]" ]
