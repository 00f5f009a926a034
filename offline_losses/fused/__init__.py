"""The same functions under the same names, as generated code: value and gradient in one pass over memory.

A fused function takes the arguments of its eager twin and gives the same results and gradients. On its first call with
new dtypes, ranks or options it is compiled (seconds, kept in the compiler's cache on disk); after that a call is one
look into a table and one kernel. The eager function stays the only source of the formula: it is what gets traced, and
it runs whenever generated code cannot, which is said once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor

import offline_losses
from offline_losses._compile.twin import fuse

if TYPE_CHECKING:
    from offline_losses import *  # noqa: F403

_AS_THEY_ARE = (
    offline_losses.bootstrap_interval,
    offline_losses.check_ends,
    offline_losses.check_log_ratio,
    offline_losses.compile_update,
    offline_losses.episode_bounds,
    offline_losses.episode_windows,
    offline_losses.hierarchical_advantages,
    offline_losses.linear_cql_penalty,
    offline_losses.linear_log_prob,
    offline_losses.linear_nll_loss,
    offline_losses.magic_value,
    offline_losses.polyak_update_,
    offline_losses.stratified_bootstrap_interval,
)
"""What looks at values has no graph, what works on modules is compiled with its surroundings, by one of these, a
projection's time goes into products of matrices, which generated code would only call, and one difference for each
result leaves nothing to read once instead of twice."""

for _name in offline_losses.__all__:
    _function = getattr(offline_losses, _name)
    if not isinstance(_function, type) and _function not in _AS_THEY_ARE:
        _function = fuse(_function)
        _function.__module__ = __name__  # where a worker process that unpickles it finds it
    globals()[_name] = _function

__all__ = [*offline_losses.__all__, "warmup"]

Arguments = ParamSpec("Arguments")


def warmup(function: Callable[Arguments, Any], *args: Arguments.args, **kwargs: Arguments.kwargs) -> float:
    """Compile a fused function, gradient included, for arguments like these, and return the seconds that it took.

    No gradient is written. Afterwards every batch size from two on is ready whose largest tensor lies on the same side
    of 32 768 elements (on a card above that, up to four times the size), unless this size is one at which the function
    runs as it is: in this process at once, in later ones from the compiler's cache on disk.
    """
    before = time.perf_counter()
    values: list[Any] = [_fresh(value) for value in args]
    named: dict[str, Any] = {name: _fresh(value) for name, value in kwargs.items()}
    with torch.enable_grad():
        result = function(*values, **named)
        outputs = [x for x in ([result] if isinstance(result, Tensor) else result) if x.requires_grad]
        inputs = [x for x in (*values, *named.values()) if isinstance(x, Tensor) and x.requires_grad]
        if outputs:
            torch.autograd.grad(outputs, inputs, [torch.ones_like(x) for x in outputs], allow_unused=True)
    return time.perf_counter() - before


def _fresh(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    leaf = value.detach().requires_grad_(value.requires_grad)
    return leaf if value.is_leaf else leaf.clone()
