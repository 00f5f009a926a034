#!/usr/bin/env bash
# DI-engine 0.5.3. `HDF5Dataset` gives the bounds of the data's actions, a twentieth wider, from which implicit behavior cloning
# draws its negative actions and among which it searches when it acts. The lower bound is found from the upper one: it is the
# largest action of the data, so that the bounds hold no action of the data but that. `D4RLDataset` has them right.
# Seen, for actions between -1 and 1 and between 0 and 10: the bounds 1.0 and 1.1, and 10.0 and 10.5, where -1.1 and 1.1, and
# -0.5 and 10.5 is right; an energy of the distance to the action 0 then acts 1.0 and 10.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="easydict==1.14 einops==0.8.2 enum-tools==0.13.0 flask==2.0.3 gym==0.25.1 gymnasium==1.4.0 h5py==3.16.0 hbutils==0.14.2"
needs="$needs numpy==1.26.4 pyyaml==6.0.4 requests==2.34.2 rich==15.0.0 tabulate==0.10.0 tensorboardX==2.6.5 treevalue==1.5.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs urlobject==3.0.0 werkzeug==2.0.3
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3 DI-toolkit==0.3.0 DI-treetensor==0.5.0
cat > "$folder/run.py" <<'PY'
import sys

import h5py
import numpy
import torch
from ding.model.template.ebm import DFO
from ding.utils.data.dataset import HDF5Dataset
from easydict import EasyDict

states, actions = numpy.zeros((101, 1)), numpy.linspace([-1.0, 0.0], [1.0, 10.0], 101)
with h5py.File(sys.argv[1], "w") as file:
    columns = {"obs": states, "next_obs": states, "action": actions, "reward": states, "done": states}
    for key, column in columns.items():
        file[key] = column
data = HDF5Dataset(EasyDict(policy={"collect": {"data_path": sys.argv[1]}}, env={}))
print("bounds", data.action_bounds.round(2).T.tolist())


class Distance(torch.nn.Module):
    def forward(self, states, actions):
        return 1000 * actions.square().sum(-1)


torch.manual_seed(0)
search = DFO(device="cpu")
search.set_action_bounds(data.action_bounds)
print("action", [round(x, 1) for x in search.infer(torch.zeros(1, 1), Distance())[0].tolist()])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" "$folder/small.hdf5" 2> /dev/null | grep -E '^(bounds|action)')
echo "$seen"
[ "$seen" = "bounds [[1.0, 1.1], [10.0, 10.5]]
action [1.0, 10.0]" ]
