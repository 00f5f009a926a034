"""Everything about the compiler; formulas never see it, they find it registered.

`graph` and `passes` generate code, `twin` and `call` take it in place of a function, `scan` and `stops` in place of a
loop over time, `projection` makes one operator of a loop over tiles, and `private` is all that is known of PyTorch
beyond its documentation.
"""

from offline_losses._compile import private, projection, scan, stops
from offline_losses._core import tracing

tracing.register(private.is_transforming)

__all__ = ["projection", "scan", "stops"]
