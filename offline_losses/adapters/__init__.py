"""Borders of the library: where datasets and TensorDicts become plain tensors.

Nothing inside the library imports this package, and this file imports nothing, so that the core
stays installable with torch alone. Import what you need by its module:

- `offline_losses.adapters.minari`: a Minari dataset as one flat, time-ordered TensorDict;
- its neighbors `d4rl`, `ogbench`, `robomimic`, `d3rlpy`, `torchrl` and `lerobot`: the same from other formats;
- `offline_losses.adapters.saving`: back to Minari;
- `offline_losses.adapters.tensordict`: any function of the library, called on a TensorDict;
- `offline_losses.adapters.keys`: the one table from argument names to TensorDict keys.
"""
