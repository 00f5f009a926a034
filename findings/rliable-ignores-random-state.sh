#!/usr/bin/env bash
# rliable 1.2.0 with arch 7.2.0. `get_interval_estimates(..., random_state=...)`, which promises reproducible intervals,
# draws its stratified resamples from NumPy's global state instead. Two calls with generators of the same seed give two
# intervals; two calls with different seeds give the same one where the global state is the same; and each call moves the
# global state of whoever trains beside it. (With pandas 3 arch 7.2.0 cannot be imported at all.)
# Seen: "False True", whether the same seed gave the same interval, and whether another seed did from the same global
# state; "True False" was to be expected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rliable==1.2.0 arch==7.2.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
cat > "$folder/run.py" <<'PY'
import numpy
from rliable import library

scores = numpy.random.RandomState(0).normal(size=(5, 3))


def mean(x):
    return numpy.array([x.mean()])


def interval(seed):
    state = numpy.random.RandomState(seed)
    _, intervals = library.get_interval_estimates({"ours": scores}, mean, reps=200, random_state=state)
    return intervals["ours"].ravel().tolist()


numpy.random.seed(1)
first, again = interval(7), interval(7)
numpy.random.seed(1)
print(first == again, first == interval(8))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "False True" ]
