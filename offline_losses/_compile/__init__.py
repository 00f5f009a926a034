"""Everything about the compiler; formulas never see it, they find it registered.

`graph` and `passes` generate code, `twin` and `call` take it in place of a function, `kernels` in place of a loop over
time, and `private` is all that is known of PyTorch beyond its documentation.
"""

from offline_losses._compile import kernels as kernels
