#!/usr/bin/env bash
# DI-engine 0.5.3. `D4RLTrajectoryDataset` cuts a random window from each episode for a Decision Transformer. Its start is drawn
# below the length less the window, and the upper end of NumPy's integers is left out, so that no window reaches the last step
# of an episode that is longer than the window. The action before the end, and in tasks that pay at their end the step that
# earns it, is never imitated; an episode of one step more than the window has a single window.
# Seen, how often 2000 windows of three show each step of an episode of five: none shows the fifth, all show the second and the
# third; of an episode of three steps all are shown.
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
from ding.utils.data.dataset import D4RLTrajectoryDataset
from easydict import EasyDict

steps = numpy.arange(8, dtype=numpy.float32)
with h5py.File(sys.argv[1], "w") as file:
    file["observations"] = file["actions"] = steps[:, None]
    file["rewards"] = numpy.ones(8, numpy.float32)
    file["terminals"] = numpy.isin(steps, [4, 7])
    file["timeouts"] = numpy.zeros(8, bool)
settings = {"env_type": "mujoco", "data_dir_prefix": sys.argv[1], "rtg_scale": 1.0, "context_len": 3}
data = D4RLTrajectoryDataset(EasyDict(dataset=settings))
numpy.random.seed(0)
for episode, first, length in ((0, 0, 5), (1, 5, 3)):
    shown = numpy.zeros(8, int)
    for _ in range(2000):
        _, _, actions, _, mask = data[episode]
        shown[actions[mask > 0].flatten().int().numpy()] += 1
    share = shown[first : first + length] / 2000
    print("share", ["all" if x == 1 else "none" if x == 0 else "some" for x in share])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" "$folder/small.hdf5" 2> /dev/null | grep '^share')
echo "$seen"
[ "$seen" = "share ['some', 'all', 'all', 'some', 'none']
share ['all', 'all', 'all']" ]
