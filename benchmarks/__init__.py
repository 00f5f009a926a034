"""Times for every function and for whole updates, beside the least that the hardware allows and beside the peers."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the ledger
