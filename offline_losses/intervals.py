r"""How far an estimate may be from the truth: by the normal distribution, by resampling, and for certain.

The first two hold as the number of episodes grows, and not where a few of them carry the weight; the last holds for any
number, of contributions whose range is known. Two-sided: an interval of level 0.95 misses the truth in at most 5 of 100
cases, on both sides together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from offline_losses._core.checks import Knob, check_axis, check_count, check_flags, check_knob, check_values
from offline_losses._core.episodes import sequence_end
from offline_losses._core.errors import describe, refuse, refuse_shape
from offline_losses._core.public import public
from offline_losses._core.reduce import exact, summed


class Interval(NamedTuple):
    """The ends of an interval of confidence, of one shape."""

    low: Tensor
    high: Tensor


@public
def normal_interval(value: Tensor, standard_error: Tensor, *, level: Knob = 0.95) -> Interval:
    r"""Interval of an estimate that is normally distributed around the truth, as it is for many episodes.

    $$\hat v \pm \Phi^{-1}\!\left( \tfrac12 + \tfrac12 p \right) \sigma_{\hat v}$$

    At level $p = 0.95$ that is 1.96 standard errors. For importance sampling it is too narrow, and too low, if the
    effective sample size is small: the weights that matter most are the ones that were not drawn.

    Args:
        value: `[*batch]`, $\hat v$, the estimates.
        standard_error: `[*batch]`, $\sigma_{\hat v}$, of the estimates themselves and not of one sample; infinite where
            it is unknown.
        level: $p$ in (0, 1), how often the interval is to hold the truth.

    Returns:
        `Interval(low, high)`, both `[*batch]`, float32 or wider.

    Gradient:
        `value`, `standard_error`, and `level` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `level` out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> normal_interval(torch.tensor(2.0), torch.tensor(1.0))
        Interval(low=tensor(0.0400), high=tensor(3.9600))

    Reference:
        Owen, Monte Carlo Theory, Methods and Examples, 2013.
    """
    check_values("normal_interval", value=value, standard_error=standard_error)
    check_knob("normal_interval", "level", level, 0.0, 1.0, shapes=[value.shape])
    half = torch.special.ndtri((1 + exact(level, value.device)) / 2) * standard_error.double()
    return _around(value, half, summed(value, standard_error))


@public
def empirical_bernstein_interval(
    value: Tensor, standard_error: Tensor, *, count: Knob, spread: Knob, level: Knob = 0.95
) -> Interval:
    r"""Interval that holds for any number of bounded samples, by their variance and their range (empirical Bernstein).

    $$\hat v \pm \left[ \sigma_{\hat v} \sqrt{2 \log \tfrac{4}{1 - p}} + \frac{7\, R \log \tfrac{4}{1 - p}}{3\,(n - 1)}
    \right]$$

    for a mean $\hat v$ of $n$ independent samples in an interval of length $R$, whatever their distribution. The range
    is one that is known before the data: for `importance_sampling_value` of returns in $[0, G]$ with `max_weight` it is
    the product of $G$ and that weight, and the interval is one of what the bounded weights estimate. It does not hold
    for weighted forms, which are no means.

    Args:
        value: `[*batch]`, $\hat v$, the means.
        standard_error: `[*batch]`, $\sigma_{\hat v}$, their standard errors.
        count: $n$, the number of samples, of episodes for instance; above 1.
        spread: $R$, the length of the range of a sample; positive.
        level: $p$ in (0, 1), how often at least the interval is to hold the truth.

    Returns:
        `Interval(low, high)`, both `[*batch]`, float32 or wider.

    Gradient:
        `value`, `standard_error`, and `count`, `spread` and `level` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> empirical_bernstein_interval(torch.tensor(0.5), torch.tensor(0.01), count=2000, spread=1.0)
        Interval(low=tensor(0.4653), high=tensor(0.5347))

    Reference:
        Maurer and Pontil, Empirical Bernstein Bounds and Sample Variance Penalization, arXiv:0907.3740, on each
        side with half of the probability. A public form takes the largest sample for the range: see
        [Lineage](../lineage/intervals.md#empirical_bernstein_interval).
    """
    check_values("empirical_bernstein_interval", value=value, standard_error=standard_error)
    check_knob("empirical_bernstein_interval", "count", count, 1.0, shapes=[value.shape])
    check_knob("empirical_bernstein_interval", "spread", spread, 0.0, shapes=[value.shape])
    check_knob("empirical_bernstein_interval", "level", level, 0.0, 1.0, shapes=[value.shape])
    log = torch.log(4 / (1 - exact(level, value.device)))
    half = (2 * log).sqrt() * standard_error.double() + 7 * spread * log / (3 * (count - 1))
    return _around(value, half, summed(value, standard_error))


@public
def bootstrap_interval(
    estimator: Callable[..., Tensor | tuple[Tensor, ...]],
    columns: Mapping[str, Tensor],
    *,
    generator: Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    r"""Interval between the quantiles of an estimator over resampled episodes (percentile bootstrap).

    $$\left[ q_{(1-p)/2},\ q_{(1+p)/2} \right] \text{ of } \hat v(\mathcal D^*_1), \dots, \hat v(\mathcal D^*_B)$$

    where each $\mathcal D^*$ holds as many whole episodes as the data, drawn with replacement. The estimator is called
    on each, so that whatever it normalizes by is resampled too; it is a loop over resamples and looks at values, for
    which it waits for a device.

    Args:
        estimator: a function of the columns by name, such as `weighted_importance_sampling_value`, that returns a 0-d
            tensor or a tuple whose first it is; `functools.partial` gives it its knobs.
        columns: tensors `[N, ...]` in time order. Where there is a `done`, bool `[N]`, it tells the episodes; where
            there is none, each row is a sample of its own.
        generator: draws the episodes; no other random state is read or moved.
        resamples: $B$, how many.
        level: $p$ in (0, 1).

    Returns:
        `Interval(low, high)`, both 0-d.

    Gradient:
        None: the interval is detached.

    Raises:
        ValueError: columns of different length, a number out of range.
        TypeError: a column that is no tensor, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> from offline_losses import weighted_importance_sampling_value
        >>> log = {"reward": torch.ones(4), "log_ratio": torch.randn(4), "done": torch.ones(4).bool()}
        >>> bootstrap_interval(weighted_importance_sampling_value, log, generator=torch.Generator(), resamples=20)
        Interval(low=tensor(1.), high=tensor(1.))

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993. Toolkits resample what was normalized
        before: see [Lineage](../lineage/intervals.md#bootstrap_interval).
    """
    check_count("bootstrap_interval", "resamples", resamples, 1)
    check_knob("bootstrap_interval", "level", level, 0.0, 1.0)
    check_generator("bootstrap_interval", generator)
    columns, last = _checked(columns)
    length = torch.diff(last, prepend=last.new_tensor([-1]))
    found = []
    for _ in range(resamples):
        drawn = torch.randint(len(last), (len(last),), generator=generator, device=generator.device).to(last.device)
        index = _steps(last[drawn], length[drawn])
        result = estimator(**{name: column[index] for name, column in columns.items()})
        found.append(number("bootstrap_interval", "estimator", result))
    return quantiles(torch.stack(found), level)


def number(function: str, argument: str, result: Any) -> Tensor:
    """What a function that was passed returned, alone or in front, or its refusal."""
    found = result[0] if isinstance(result, tuple) and result else result
    if not isinstance(found, Tensor) or found.ndim:
        mend = "Let it return one number, result.mean() for instance."
        refuse(TypeError, function, argument, "a function whose (first) result is a 0-d tensor", describe(found), mend)
    return found.detach()


def check_generator(function: str, generator: Generator) -> None:
    if not isinstance(generator, Generator):
        mend = "Pass torch.Generator().manual_seed(0)."
        refuse(TypeError, function, "generator", "a torch.Generator", describe(generator), mend)


def quantiles(
    estimates: Tensor,  # [B]
    level: float,
) -> Interval:
    """The middle share of the estimates."""
    low, high = estimates.double().quantile(estimates.new_tensor([1 - level, 1 + level], dtype=torch.float64) / 2)
    return Interval(low.to(estimates.dtype), high.to(estimates.dtype))


def _around(value: Tensor, half: Tensor, dtype: torch.dtype) -> Interval:
    return Interval((value.double() - half).to(dtype), (value.double() + half).to(dtype))


def _checked(columns: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The columns, of which `done` ends the last episode too, and the last step of each."""
    columns = dict(columns)
    if not columns:
        mend = "Pass the arguments of the estimator by name."
        refuse(ValueError, "bootstrap_interval", "columns", "at least one column", "none", mend)
    for name, column in columns.items():
        if not isinstance(column, Tensor):
            mend = "Convert it with torch.as_tensor."
            refuse(TypeError, "bootstrap_interval", name, "a torch.Tensor", describe(column), mend)
    first, like = next(iter(columns.items()))
    check_axis("bootstrap_interval", first, like if like.ndim == 0 else like.flatten(), "row")
    for name, column in columns.items():
        if column.shape[:1] != like.shape[:1]:
            refuse_shape("bootstrap_interval", name, column, [torch.Size([*like.shape[:1], *column.shape[1:]])], first)
    if "done" in columns:
        check_flags("bootstrap_interval", like.shape[:1], done=columns["done"])
        columns["done"] = sequence_end(columns["done"])
        return columns, columns["done"].nonzero().squeeze(-1)
    return columns, torch.arange(len(like), device=like.device)


def _steps(last: Tensor, length: Tensor) -> Tensor:
    """The index of each step of these episodes, one episode after the other."""
    end = length.cumsum(0)
    behind = (last + 1 - end).repeat_interleave(length)
    return torch.arange(len(behind), device=last.device) + behind
