r"""Functions that bring values of all sizes near to each other, and their inverses: learn small numbers for large ones.

They are odd, rising, exact at both ends of the float, and their slope at zero is what the formula says. The sign times
a function of the absolute value, as they are usually written, has a gradient of zero there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_float, check_knob
from offline_losses._core.exponential import above_tangent
from offline_losses._core.public import public
from offline_losses._core.reduce import upcast


@public
def symlog(x: Tensor) -> Tensor:
    r"""Logarithm on both sides of zero: the identity for small numbers, and for large ones their order of magnitude.

    $$\operatorname{sign}(x) \log(1 + |x|)$$

    Args:
        x: any shape, for instance a target, or an observation.

    Returns:
        The shape of x, in the input's dtype.

    Gradient:
        `x`: 1 at zero.

    Raises:
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> symlog(torch.tensor([-1000.0, 0.0, 1.0]))
        tensor([-6.9088,  0.0000,  0.6931])

    Reference:
        Hafner, Pasukonis, Ba and Lillicrap, Mastering Diverse Domains through World Models (DreamerV3),
        arXiv:2301.04104.
    """
    check_float("symlog", x=x)
    size = _size(upcast(x))
    return _signed(torch.log1p(size), x)


@public
def symexp(x: Tensor) -> Tensor:
    r"""Exponential on both sides of zero: the inverse of `symlog`.

    $$\operatorname{sign}(x) \left( e^{|x|} - 1 \right)$$

    Args:
        x: any shape; beyond 88 the result overflows in float32.

    Returns:
        The shape of x, in the input's dtype.

    Gradient:
        `x`: 1 at zero.

    Raises:
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> symexp(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-6.3891,  0.0000,  6.3891])

    Reference:
        Hafner, Pasukonis, Ba and Lillicrap, Mastering Diverse Domains through World Models (DreamerV3),
        arXiv:2301.04104.
    """
    check_float("symexp", x=x)
    size = _size(upcast(x))
    small = size < 0.25
    near = torch.where(small, size, 0.0)  # the difference has no digits there, and generated code no `expm1`
    return _signed(torch.where(small, above_tangent(near) + near, size.exp() - 1), x)


@public
def signed_hyperbolic(x: Tensor, *, epsilon: Knob = 1e-3) -> Tensor:
    r"""Square root on both sides of zero, with a little of the identity: values of any size become comparable.

    $$\operatorname{sign}(x) \left( \sqrt{|x| + 1} - 1 \right) + \epsilon x$$

    For a target of transformed values, $h(r + \gamma h^{-1}(Q'))$, the inverse is `signed_parabolic`.

    Args:
        x: any shape, a value in units of return.
        epsilon: share of the identity, which keeps the inverse smooth; at least 0.

    Returns:
        The shape of x, in the input's dtype.

    Gradient:
        `x`, one half and epsilon at zero, and `epsilon` if it is a tensor.

    Raises:
        ValueError: `epsilon` negative.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> signed_hyperbolic(torch.tensor([-99.0, 0.0, 3.0]))
        tensor([-9.0990,  0.0000,  1.0030])

    Reference:
        Pohlen et al., Observe and Look Further: Achieving Consistent Performance on Atari, arXiv:1805.11593, with
        epsilon 0.01; Kapturowski et al., R2D2, ICLR 2019, with 0.001.
    """
    check_float("signed_hyperbolic", x=x)
    check_knob("signed_hyperbolic", "epsilon", epsilon, 0.0, bounds="[)", shapes=[x.shape])
    size = _size(upcast(x))
    small = size < 1
    near = torch.where(small, size, 0.0)
    root = torch.where(small, near / ((near + 1).sqrt() + 1), (size + 1).sqrt() - 1)  # the difference has few digits
    return _signed(root + epsilon * size, x)


@public
def signed_parabolic(x: Tensor, *, epsilon: Knob = 1e-3) -> Tensor:
    r"""Square on both sides of zero: the inverse of `signed_hyperbolic` with the same epsilon.

    $$\operatorname{sign}(x) \left( (1 + t)^2 - 1 \right), \qquad
    t = \frac{2 |x|}{1 + 2\epsilon + \sqrt{(1 + 2\epsilon)^2 + 4\epsilon |x|}}$$

    It is the positive root of $\epsilon t^2 + (1 + 2\epsilon)\,t = |x|$ in the form without a difference, which keeps
    its digits for small x and for $\epsilon = 0$.

    Args:
        x: any shape, a transformed value.
        epsilon: that of the transformation; at least 0.

    Returns:
        The shape of x, in the input's dtype, in units of return.

    Gradient:
        `x`, and `epsilon` if it is a tensor.

    Raises:
        ValueError: `epsilon` negative.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> signed_parabolic(torch.tensor([-9.099, 0.0, 1.003]))
        tensor([-99.0000,   0.0000,   3.0000])

    Reference:
        Pohlen et al., Observe and Look Further: Achieving Consistent Performance on Atari, arXiv:1805.11593. The usual
        form loses digits near zero: see [Lineage](../lineage/squash.md#signed_parabolic).
    """
    check_float("signed_parabolic", x=x)
    check_knob("signed_parabolic", "epsilon", epsilon, 0.0, bounds="[)", shapes=[x.shape])
    size = _size(upcast(x))
    finite = size < torch.inf
    near = torch.where(finite, size, 0.0)
    slope = 1 + 2 * epsilon
    unit = torch.where(
        near > 2.0**60, 2.0**60, torch.ones_like(near)
    )  # a square under the root would overflow before the root does
    root = unit.sqrt() * (slope * slope / unit + 4 * epsilon * (near / unit)).sqrt()
    t = near / ((slope + root) / 2)
    return _signed(torch.where(finite, t * (t + 2), size), x)


def _size(x: Tensor) -> Tensor:
    """The absolute value, with the slope of the right side at zero."""
    return torch.where(x < 0, -x, x)


def _signed(size: Tensor, x: Tensor) -> Tensor:
    return torch.where(x < 0, -size, size).to(x.dtype)
