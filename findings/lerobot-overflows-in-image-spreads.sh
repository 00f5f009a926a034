#!/usr/bin/env bash
# LeRobot 0.4.4, the last for Python 3.11; 0.6.1 widens the numbers first. The spread of images is the root of their mean square
# less the square of their mean, and the squares are taken of bytes, which hold them only up to 15: all larger ones wrap. What
# is left is below the mean's square, so that the standard deviation is zero, though mean and quantiles are right. Policies
# that normalize images by the dataset's statistics divide by it, plus 1e-8. Files that were recorded so keep it.
# Seen, for images of random bytes, deviation and mean by LeRobot and by NumPy: 0.0 and 0.5 for 0.29 and 0.5; for dark ones,
# below 16: 0.018 and 0.029 by both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="accelerate==1.15.0 datasets==4.8.5 jsonlines==4.0.0 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1 pillow==13.0.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs
"$folder/venv/bin/pip" install --quiet --no-deps lerobot==0.4.4
cat > "$folder/run.py" <<'PY'
import sys
import types
from pathlib import Path

import datasets
import numpy
from PIL import Image

sys.modules["torchvision"] = types.SimpleNamespace(transforms=None)  # imported beside the statistics, and not used by them
from lerobot.datasets.compute_stats import compute_episode_stats

random = numpy.random.default_rng(0)
features = {"image": {"dtype": "image", "shape": (3, 64, 64)}}
for brightest in (255, 15):
    images = random.integers(0, brightest, (10, 64, 64, 3), dtype=numpy.uint8, endpoint=True)
    paths = [str(Path(sys.argv[1]) / f"{brightest}-{number}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    stats = compute_episode_stats({"image": paths}, features)["image"]
    found = (stats["std"].max(), stats["mean"].mean(), (images / 255).std(), (images / 255).mean())
    print(*(f"{x:.2g}" for x in found))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" "$folder" 2> /dev/null | grep '^0')
echo "$seen"
[ "$seen" = "0 0.5 0.29 0.5
0.018 0.029 0.018 0.029" ]
