"""One row for each public function: what it takes. The contracts, and whatever else runs over all functions, read it.

A row lists the arguments in the order of the signature. Shapes are `[*batch]` followed by the named axes; a case is a
row with some of its optional arguments present, and with or without critics on a leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from oracles import ORACLES
from torch import Generator, Tensor

import offline_losses

SIZES = {"N": 5, "T": 7, "A": 3, "D": 3, "K": 6, "M": 4, "U": 2, "V": 6}
BENCHMARK_SIZES = {"N": 16, "T": 64, "A": 8, "D": 16, "K": 51, "M": 16, "U": 2, "V": 64}
CRITICS = 2


@dataclass(frozen=True)
class Values:
    """A floating-point tensor `[*batch, *axes]`, uniform between low and high."""

    axes: str = ""
    critics: str = "never"  # "always" leading, "case" by case, or "never"
    batched: bool = True
    optional: bool = False
    gradient: bool = True
    low: float = -2.0
    high: float = 2.0
    made: Callable[[Tensor], Tensor] = field(default=lambda x: x)


@dataclass(frozen=True)
class Flags:
    """A bool tensor `[*batch, *axes]`."""

    axes: str = ""
    optional: bool = False
    share: float | None = None  # that is True, if it is not the share of the whole case


@dataclass(frozen=True)
class Knob:
    """A hyper-parameter: a value inside its range, some values outside, and others that a schedule may take."""

    value: float
    outside: tuple[float, ...]
    schedule: tuple[float, ...]
    optional: bool = False
    gradient: bool = True


@dataclass(frozen=True)
class Option:
    """A word out of a few, or a switch."""

    value: str | bool


@dataclass(frozen=True)
class Count:
    """A Python int that shapes the computation, and some outside of its range."""

    value: int
    outside: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Index:
    """Which members of an axis, as an int64 vector."""

    value: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Places or numbers of steps, one for each sample: an int64 tensor `[*batch]`, from low to below high."""

    low: int
    high: int
    axes: str = ""
    batched: bool = True


@dataclass(frozen=True)
class Processes:
    """A group of processes, which the contracts never give; a room's tests start some."""


Argument: TypeAlias = Values | Flags | Knob | Option | Count | Index | Rows | Processes

_LEVEL = Knob(0.8, (0.0, 1.0, -0.5, float("nan")), (0.1, 0.3, 0.5, 0.7, 0.9))
_POSITIVE = Knob(0.7, (0.0, -1.0, float("nan")), (0.2, 0.5, 1.0, 2.0, 5.0))
_NOT_NEGATIVE = Knob(0.7, (-1.0, float("nan")), (0.0, 0.2, 0.5, 1.0, 2.0))
_UNIT = Knob(0.9, (-0.1, 1.5, float("nan")), (0.0, 0.5, 0.9, 0.99, 1.0))
_SHARE = Knob(0.4, (0.0, 1.5, -1.0), (0.1, 0.3, 0.5, 0.8, 1.0))
_SMALL = Knob(1e-6, (0.0, -1.0), (1e-8, 1e-6, 1e-3, 0.1, 10.0))
_ANY = Knob(0.5, (float("nan"), float("inf")), (-2.0, -1.0, 0.0, 1.0, 3.0))
_EXPONENT = Knob(1.5, (0.0, -1.0, 100.0, float("nan")), (0.5, 1.0, 2.0, 7.0, 50.0))
_BOUND = Knob(3.0, (0.0, -1.0, float("nan")), (0.5, 1.0, 2.0, 3.0, 100.0))
_SIZE = Knob(1.3, (-1.0, float("nan"), float("inf")), (0.0, 0.5, 1.0, 2.0, 100.0), optional=True, gradient=False)


@dataclass(frozen=True)
class Row:
    """A public function and its arguments."""

    name: str
    arguments: Mapping[str, Argument]
    batch_statistic: bool = False  # one sample's result depends on the others
    refuses_nothing: bool = False  # of an empty batch there is no result
    one_number: bool = False  # a knob is that of all samples, which are taken together
    sums: bool = False  # over an axis, so that it comes back in float32 at least, as a loss does
    alternatives: tuple[str, ...] = ()  # optional arguments of which exactly one is given
    together: tuple[str, ...] = ()  # optional arguments that are given together or not at all
    tail_axes: str = ""  # axes after the batch that a mask or weight has too
    constant: bool = False  # piecewise: no result has a derivative
    once: bool = False  # differentiable, and says that it is so only once
    as_it_is: bool = False  # fused too: products of matrices, a tile at a time; a difference alone

    @property
    def function(self) -> Callable[..., Any]:
        """The public function."""
        return getattr(offline_losses, self.name)

    @property
    def oracle(self) -> Callable[..., Any]:
        """The float64 loop from the paper."""
        return ORACLES[self.name]

    @property
    def tail(self) -> bool:
        """Whether it ends in mask, weight and reduction."""
        return self.name.endswith(("_loss", "_losses", "_penalty"))

    @property
    def detached(self) -> bool:
        """Whether nothing that comes out carries a gradient."""
        return self.constant or self.name.endswith(("_weights", "_filter", "_mask", "_indicator"))


@dataclass(frozen=True)
class Case:
    """A row with these of its optional arguments, and with or without a critic axis where one may lead."""

    row: Row
    given: tuple[str, ...]
    critics: bool = False

    def __str__(self) -> str:
        return "-".join([self.row.name, *self.given, *(["critics"] if self.critics else [])])

    @property
    def apart(self) -> bool:
        """Whether a sample's result is the same in any batch: nothing is made of the others, or all of it is given."""
        return not self.row.batch_statistic or "normalizer" in self.given

    @property
    def arguments(self) -> dict[str, Argument]:
        """The arguments that this case passes."""
        return {
            name: argument
            for name, argument in self.row.arguments.items()
            if not getattr(argument, "optional", False) or name in self.given
        }

    def of(self, kind: type) -> dict[str, Any]:
        """The arguments of one kind."""
        return {name: argument for name, argument in self.arguments.items() if isinstance(argument, kind)}

    def leads(self, argument: Argument) -> bool:
        """Whether this argument has a critic axis before the batch."""
        kind = getattr(argument, "critics", "never")
        return kind == "always" or (kind == "case" and self.critics)

    def shape(self, batch: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a mask or weight: the batch's where an argument without critics tells it, else the loss's."""
        arguments = {**self.of(Values), **self.of(Rows)}.values()
        told = any(argument.batched and not self.leads(argument) for argument in arguments)
        axes = tuple(SIZES[axis] for axis in self.row.tail_axes)
        return ((CRITICS,) if self.critics and not told else ()) + batch + axes

    def knobs_of_runs(self, runs: int) -> dict[str, Tensor]:
        """Each knob as one number for each run of a batch `[R, B]`, or `[E, R, B]` where nothing tells critics."""
        shape = (1, runs, 1) if self.critics and self.shape(()) else (runs, 1)
        numbers = {name: knob.schedule[:runs] for name, knob in self.of(Knob).items()}
        return {name: torch.tensor(x, dtype=torch.float64).view(shape) for name, x in numbers.items()}

    def build(
        self,
        batch: tuple[int, ...] = (4,),
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        sizes: Mapping[str, int] = SIZES,
        flagged: float = 0.4,
    ) -> dict[str, Any]:
        """Arguments to call the function with, drawn from the seed; flags are True with this probability."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: self._draw(argument, batch, dtype, generator, sizes, flagged)
            for name, argument in self.arguments.items()
        }

    def _draw(
        self,
        argument: Argument,
        batch: tuple[int, ...],
        dtype: torch.dtype,
        generator: Generator,
        sizes: Mapping[str, int],
        flagged: float,
    ) -> Any:
        if isinstance(argument, Processes):
            return None
        if isinstance(argument, (Knob, Option, Count)):
            return argument.value
        if isinstance(argument, Index):
            return torch.tensor(argument.value)
        if isinstance(argument, Rows):
            return torch.randint(argument.low, argument.high, batch, generator=generator)
        shape = tuple(sizes[axis] for axis in argument.axes)
        if isinstance(argument, Flags):
            share = flagged if argument.share is None else argument.share
            return torch.rand(batch + shape, generator=generator) < share
        shape = ((CRITICS,) if self.leads(argument) else ()) + (batch if argument.batched else ()) + shape
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return argument.made(argument.low + (argument.high - argument.low) * uniform).to(dtype)


_REWARD = {"reward": Values()}
_STEPS = {"reward": Values("T"), "done": Flags("T")}
_FOLLOWED = {
    "reward": Values("T"),
    "next_value": Values("T"),
    "terminated": Flags("T"),
    "done": Flags("T"),
}
_VALUED = {
    "reward": Values("T"),
    "value": Values("T"),
    "next_value": Values("T"),
    "terminated": Flags("T"),
    "done": Flags("T"),
}
_VTRACE = {
    "reward": Values("T"),
    "value": Values("T"),
    "next_value": Values("T"),
    "log_ratio": Values("T"),
    "terminated": Flags("T"),
    "done": Flags("T"),
    "discount": _UNIT,
    "lambda_": _UNIT,
    "max_ratio": _BOUND,
    "max_trace": replace(_BOUND, value=2.0),  # at the bound of the ratio it has a kink
}
_ACTED = {
    "reward": Values("T"),
    "q_data": Values("T"),
    "next_value": Values("T"),
    "log_ratio": Values("T"),
    "terminated": Flags("T"),
    "done": Flags("T"),
}
_LOGGED = {"reward": Values("T"), "log_ratio": Values("T"), "done": Flags("T")}
_MODELLED = {
    "reward": Values("T"),
    "q_data": Values("T"),
    "value": Values("T"),
    "next_value": Values("T"),
    "log_ratio": Values("T"),
    "terminated": Flags("T"),
    "done": Flags("T"),
}
_EXISTING = {"mask": Flags(optional=True, share=0.8)}
_STATISTIC = {"batch_statistic": True, "sums": True, "one_number": True}
_BELOW = Knob(-0.5, (float("nan"),), (-2.0, -1.0, -0.5, 0.0, 0.3))
_ABOVE = Knob(0.8, (float("nan"),), (0.4, 0.8, 1.0, 1.5, 3.0))
_BRANCHED = {"value": Values(), "next_value": Values(), "initial_value": Values()}
_PRICED = {**_BRANCHED, "reward": Values(), "terminated": Flags()}
_MAGNITUDE = Knob(1.5, (1.0, 0.5, float("nan")), (1.2, 1.5, 2.0, 3.0, 4.0))
_PROPENSITY = {"policy_probability": Values(low=0.05, high=1.0), "propensity": Values(low=0.2, high=1.0)}
_MOMENTS_OF_PARTS = {
    "samples": Values(critics="always", low=1.0, high=9.0),
    "mean": Values("D", critics="always"),
    "squared_deviation": Values("D", critics="always", low=0.0, high=9.0),
}
_ESTIMATE = {"batch_statistic": True, "refuses_nothing": True, "sums": True, "one_number": True}
_RESIDUAL = {"prediction": Values(critics="case"), "target": Values(gradient=False)}
_CANDIDATES = {"q_candidates": Values("N", critics="case"), "q_data": Values(critics="case")}
_SUPPORT = Values("K", batched=False, made=lambda x: (0.5 + x.abs() / 4).cumsum(-1) - 3)
_FRACTION = Values(low=0.1, high=0.9)
_PROJECTED = {
    "hidden": Values("D"),
    "head": Values("VD", batched=False),
    "action": Rows(0, 6),
    "bias": Values("V", batched=False, optional=True),
    "temperature": _POSITIVE,
    "chunk": Count(4),
    "group": Processes(),
}
_BY_TILES = {"once": True, "as_it_is": True}
_LOGITS = {"q": Values("N", critics="case"), "log_density": Values("N", optional=True), "temperature": _POSITIVE}

LEDGER = [
    Row("squared_loss", _RESIDUAL),
    Row("huber_loss", {**_RESIDUAL, "delta": _POSITIVE}),
    Row("expectile_loss", {**_RESIDUAL, "expectile": _LEVEL}),
    Row("quantile_loss", {**_RESIDUAL, "quantile": _LEVEL}),
    Row("gumbel_loss", {**_RESIDUAL, "temperature": _POSITIVE, "max_exponent": _EXPONENT}),
    Row("exponential_value_loss", {**_RESIDUAL, "temperature": _POSITIVE, "max_exponent": _EXPONENT}),
    Row("sparse_value_loss", {**_RESIDUAL, "temperature": _POSITIVE}),
    Row("sparse_weights", {"advantage": Values(), "temperature": _POSITIVE}),
    Row(
        "binary_expectile_loss",
        {"logits": Values(critics="case"), "target": Values(gradient=False, low=0.0, high=1.0), "expectile": _LEVEL},
    ),
    Row("two_hot", {"value": Values(), "support": _SUPPORT}),
    Row("hl_gauss", {"value": Values(), "support": _SUPPORT, "sigma_to_bin_ratio": _POSITIVE}),
    Row(
        "categorical_projection",
        {
            "probability": Values("N", critics="case", made=lambda x: x.softmax(-1)),
            "atoms": Values("N"),
            "support": _SUPPORT,
        },
        sums=True,
    ),
    Row(
        "categorical_loss",
        {
            "logits": Values("K", critics="case"),
            "target": Values("K", gradient=False, made=lambda x: x.softmax(-1)),
        },
    ),
    Row("categorical_value", {"logits": Values("K"), "support": _SUPPORT}, sums=True),
    Row(
        "quantile_huber_loss",
        {
            "prediction": Values("N", critics="case"),
            "target": Values("M", gradient=False),
            "quantile": Values("N", optional=True, low=0.05, high=0.95),
            "delta": _POSITIVE,
            "divide_by_delta": Option(True),
        },
    ),
    Row("soft_value", {**_LOGITS, "mask": Flags("N", optional=True)}, sums=True),
    Row("softmax_weights", {**_LOGITS, "mask": Flags("N", optional=True)}),
    Row("softmax_entropy", {"q": Values("N"), "temperature": _POSITIVE, "mask": Flags("N", optional=True)}, sums=True),
    Row("linear_recurrence", {"b": Values("T"), "a": Values("T"), "cut": Flags("T", optional=True)}, sums=True),
    Row(
        "discounted_return",
        {
            **_STEPS,
            "discount": _UNIT,
            "next_value": Values("T", optional=True),
            "terminated": Flags("T", optional=True),
        },
        together=("next_value", "terminated"),
        sums=True,
    ),
    Row("n_step_return", {**_FOLLOWED, "n": Count(3), "discount": _UNIT}, sums=True),
    Row("lambda_return", {**_FOLLOWED, "discount": _UNIT, "lambda_": _UNIT}, sums=True),
    Row(
        "generalized_advantage",
        {
            "reward": Values("T"),
            "value": Values("T"),
            "next_value": Values("T"),
            "terminated": Flags("T"),
            "done": Flags("T"),
            "discount": _UNIT,
            "lambda_": _UNIT,
        },
        sums=True,
    ),
    Row("trace_return", {**_VALUED, "trace": _NOT_NEGATIVE, "ratio": _NOT_NEGATIVE, "discount": _UNIT}, sums=True),
    Row("retrace_return", {**_ACTED, "discount": _UNIT, "lambda_": _UNIT}, sums=True),
    Row(
        "tree_backup_return",
        {
            "reward": Values("T"),
            "q_data": Values("T"),
            "next_value": Values("T"),
            "log_prob": Values("T", high=0.0),
            "terminated": Flags("T"),
            "done": Flags("T"),
            "discount": _UNIT,
            "lambda_": _UNIT,
        },
        sums=True,
    ),
    Row("vtrace_return", _VTRACE, sums=True),
    Row("vtrace_advantage", _VTRACE, sums=True),
    Row(
        "chunk_return",
        {
            "reward": Values("T"),
            "next_value": Values(),
            "terminated": Flags("T"),
            "done": Flags("T"),
            "discount": _UNIT,
        },
        sums=True,
    ),
    Row("relabel_return", {**_FOLLOWED, "discount": _UNIT}, sums=True),
    Row("episode_return", {**_STEPS, "discount": _UNIT}, sums=True),
    Row(
        "return_filter",
        {
            **_STEPS,
            "fraction": _SHARE,
            "discount": _UNIT,
            "by": Option("steps"),
        },
        batch_statistic=True,
        refuses_nothing=True,
        one_number=True,
    ),
    Row(
        "sampling_probabilities",
        {"score": Values("T"), "done": Flags("T"), "temperature": _POSITIVE, "by": Option("episodes")},
        batch_statistic=True,
        refuses_nothing=True,
        sums=True,
        constant=True,
        one_number=True,
    ),
    Row("reward_scale", {**_STEPS, "horizon": _POSITIVE, "discount": _UNIT}, **_ESTIMATE),
    Row(
        "observation_statistics",
        {"observation": Values("D"), "mask": Flags(optional=True)},
        batch_statistic=True,
        sums=True,
    ),
    Row(
        "observation_moments",
        {"observation": Values("D"), "mask": Flags(optional=True)},
        batch_statistic=True,
        sums=True,
    ),
    Row("merged_moments", _MOMENTS_OF_PARTS, sums=True),
    Row(
        "moment_statistics",
        {
            "samples": Values(low=1.0, high=9.0),
            "mean": Values("D"),
            "squared_deviation": Values("D", low=0.5, high=9.0),
        },
        sums=True,
    ),
    Row(
        "return_threshold",
        {"episode_return": Values(), "episode_length": Rows(1, 9), "fraction": _SHARE, "by": Option("steps")},
        batch_statistic=True,
        refuses_nothing=True,
        constant=True,
        one_number=True,
    ),
    Row(
        "normalize_observation",
        {
            "observation": Values("D"),
            "mean": Values("D", batched=False),
            "std": Values("D", batched=False, low=0.5),
            "epsilon": _POSITIVE,
        },
    ),
    Row("bellman_target", {**_REWARD, "next_value": Values(), "terminated": Flags(), "discount": _UNIT}),
    Row(
        "soft_bellman_target",
        {
            **_REWARD,
            "next_value": Values(),
            "next_log_prob": Values(),
            "terminated": Flags(),
            "temperature": _NOT_NEGATIVE,
            "discount": _UNIT,
        },
    ),
    Row(
        "expected_target",
        {
            **_REWARD,
            "next_q": Values("N"),
            "next_probability": Values("N", made=lambda x: x.softmax(-1)),
            "terminated": Flags(),
            "discount": _UNIT,
        },
        sums=True,
    ),
    Row(
        "double_q_target",
        {
            **_REWARD,
            "next_q_online": Values("N", gradient=False),
            "next_q_target": Values("N"),
            "terminated": Flags(),
            "discount": _UNIT,
        },
    ),
    Row("ensemble_min", {"q": Values(critics="always")}),
    Row("ensemble_mean", {"q": Values(critics="always")}, sums=True),
    Row("ensemble_mix", {"q": Values(critics="always"), "lambda_": _UNIT}),
    Row("ensemble_subset_min", {"q": Values(critics="always"), "index": Index((1,))}),
    Row("candidate_max_value", {"q": Values("N", critics="always"), "order": Option("min_then_max")}),
    Row(
        "ensemble_lower_bound",
        {"q": Values(critics="always"), "penalty_weight": _NOT_NEGATIVE, "correction": Count(0, (-1, CRITICS))},
        sums=True,
    ),
    Row("diversity_penalty", {"action_gradient": Values("A", critics="always")}),
    Row(
        "uncertainty_penalized_reward",
        {
            "reward": Values(),
            "model_output": Values("A", critics="always"),
            "uncertainty": Option("ensemble_std"),
            "penalty_weight": _NOT_NEGATIVE,
        },
        sums=True,
    ),
    Row("combo_penalty", {"q": Values(critics="case"), "rollout": Flags()}, batch_statistic=True),
    Row("mcq_loss", {"prediction": Values(critics="case"), "target": Values("N", gradient=False)}),
    Row(
        "hindsight_goals",
        {
            "index": Rows(0, 50),
            "episode_end": Rows(50, 60),
            "random_index": Rows(0, 90),
            "uniform": Values("U", gradient=False, low=0.0, high=1.0),
            "current_share": Knob(0.2, (-0.1, 1.5, float("nan")), (0.0, 0.2, 0.3, 0.4, 0.5)),
            "future_share": Knob(0.5, (-0.1, 1.5, 0.9, float("nan")), (0.5, 0.2, 0.7, 0.1, 0.0)),
            "future": Option("geometric"),
            "discount": Knob(0.9, (-0.1, 1.0, float("nan")), (0.0, 0.5, 0.9, 0.99, 0.3)),
        },
        constant=True,
    ),
    Row(
        "goal_reward",
        {"distance": Values(gradient=False), "threshold": _NOT_NEGATIVE, "kind": Option("step_cost")},
        constant=True,
    ),
    Row(
        "hierarchical_advantages",
        {
            "value": Values(),
            "subgoal_value": Values(),
            "value_to_subgoal": Values(),
            "next_value_to_subgoal": Values(),
        },
        as_it_is=True,
    ),
    Row("contrastive_loss", {"logits": Values("N", critics="case"), "positive": Rows(0, 5), "form": Option("binary")}),
    Row(
        "quasimetric_losses",
        {
            "push_distance": Values(),
            "step_distance": Values(low=0.0, high=4.0),
            "log_multiplier": Values(batched=False),
            "step_cost": _NOT_NEGATIVE,
            "tolerance": _NOT_NEGATIVE,
            "offset": _ANY,
            "temperature": _POSITIVE,
        },
    ),
    Row(
        "transitive_target",
        {
            "first_value": Values(critics="case", low=0.0, high=1.0),
            "second_value": Values(critics="case", low=0.0, high=1.0),
            "first_steps": Rows(0, 4),
            "second_steps": Rows(0, 4),
            "discount": _UNIT,
        },
    ),
    Row(
        "transitive_weights",
        {
            "target": Values(gradient=False, low=0.0, high=1.0),
            "discount": Knob(0.9, (0.0, 1.0, -0.5, float("nan")), (0.1, 0.3, 0.5, 0.9, 0.99)),
            "exponent": _NOT_NEGATIVE,
        },
    ),
    Row(
        "sequence_log_prob",
        {"log_prob": Values("T"), "mask": Flags("T", share=0.8), "length_normalized": Option(True)},
        sums=True,
    ),
    Row(
        "sequence_action_loss",
        {
            "prediction": Values("A"),
            "target": Values("A", gradient=False),
        },
    ),
    Row(
        "preference_loss",
        {
            "chosen_log_ratio": Values(),
            "rejected_log_ratio": Values(),
            "kind": Option("cdpo"),
            "kl_weight": _POSITIVE,
            "label_smoothing": Knob(0.1, (-0.1, 0.5, 1.0, float("nan")), (0.0, 0.1, 0.2, 0.3, 0.4)),
        },
    ),
    Row(
        "reward_regression_loss",
        {
            "log_ratio": Values(),
            "target": Values(gradient=False, low=0.0, high=1.0),
            "kind": Option("qrpo"),
            "kl_weight": _POSITIVE,
        },
    ),
    Row(
        "path_consistency_loss",
        {
            "value": Values("T"),
            "next_value": Values("T"),
            "reward": Values("T"),
            "log_ratio": Values("T"),
            "terminated": Flags("T"),
            "done": Flags("T"),
            "n": Count(3),
            "kl_weight": _POSITIVE,
            "discount": _UNIT,
        },
        batch_statistic=True,
        tail_axes="T",
    ),
    Row(
        "importance_weights",
        {"log_ratio": Values("T"), "done": Flags("T"), "max_weight": _BOUND},
        sums=True,
    ),
    Row("importance_sampling_value", {**_LOGGED, "discount": _UNIT, "max_weight": _BOUND}, **_ESTIMATE),
    Row("weighted_importance_sampling_value", {**_LOGGED, "discount": _UNIT}, **_ESTIMATE),
    Row("per_decision_value", {**_LOGGED, "discount": _UNIT, "max_weight": _BOUND}, **_ESTIMATE),
    Row("weighted_per_decision_value", {**_LOGGED, "discount": _UNIT}, **_ESTIMATE),
    Row("doubly_robust_value", {**_MODELLED, "discount": _UNIT, "max_weight": _BOUND}, **_ESTIMATE),
    Row("weighted_doubly_robust_value", {**_MODELLED, "discount": _UNIT}, **_ESTIMATE),
    Row("normal_interval", {"value": Values(), "standard_error": Values(low=0.0), "level": _LEVEL}, sums=True),
    Row(
        "empirical_bernstein_interval",
        {
            "value": Values(),
            "standard_error": Values(low=0.0),
            "count": Knob(50.0, (1.0, 0.0, -2.0, float("nan")), (2.0, 10.0, 50.0, 100.0, 1e6)),
            "spread": _POSITIVE,
            "level": _LEVEL,
        },
        sums=True,
    ),
    Row(
        "normalized_score",
        {
            "score": Values(),
            "random_score": Knob(-1.0, (float("nan"), float("inf")), (-2.0, -1.5, -1.0, -0.5, 0.0)),
            "reference_score": Knob(2.0, (float("nan"), float("inf")), (1.0, 2.0, 3.0, 4.0, 5.0)),
        },
    ),
    Row("interquartile_mean", {"score": Values()}, **_ESTIMATE),
    Row("probability_of_improvement", {"score": Values("N"), "other_score": Values("M")}, sums=True, constant=True),
    Row("ips_value", {"reward": Values(), **_PROPENSITY, "max_weight": _BOUND}, **_ESTIMATE),
    Row("self_normalized_ips_value", {"reward": Values(), **_PROPENSITY}, **_ESTIMATE),
    Row(
        "bandit_doubly_robust_value",
        {"reward": Values(), "q_data": Values(), "value": Values(), **_PROPENSITY, "max_weight": _BOUND},
        **_ESTIMATE,
    ),
    Row("awr_weights", {"advantage": Values(), "temperature": _POSITIVE, "max_weight": _BOUND}),
    Row(
        "crr_weights",
        {"advantage": Values(), "mode": Option("exponential"), "temperature": _POSITIVE, "max_weight": _BOUND},
    ),
    Row("normalize_weights", {"weight": Values(low=0.1), "mask": Flags(optional=True)}, batch_statistic=True),
    Row(
        "effective_sample_size",
        {"weight": Values(low=0.1), "mask": Flags(optional=True)},
        batch_statistic=True,
        sums=True,
    ),
    Row(
        "cql_logsumexp_penalty",
        {**_CANDIDATES, "log_density": Values("N", optional=True), "temperature": _POSITIVE},
    ),
    Row("cql_max_penalty", _CANDIDATES),
    Row(
        "cql_lagrange_losses",
        {
            "gap": Values(critics="case"),
            "log_multiplier": Values(batched=False),
            "threshold": _ANY,
            "penalty_weight": _POSITIVE,
            "threshold_on": Option("weighted_gap"),
            "max_multiplier": Knob(100.0, (0.0, -1.0, float("nan")), (10.0, 20.0, 50.0, 100.0, 1e6)),
        },
    ),
    Row("calibrated_value", {"q_candidates": Values("N", critics="case"), "reference_value": Values()}),
    Row("nll_loss", {"log_prob": Values()}),
    Row("linear_log_prob", _PROJECTED, sums=True, **_BY_TILES),
    Row("linear_cql_penalty", _PROJECTED, **_BY_TILES),
    Row("linear_nll_loss", _PROJECTED, **_BY_TILES),
    Row("gaussian_log_prob", {"mean": Values("A"), "log_std": Values("A", high=1.0), "action": Values("A")}, sums=True),
    Row(
        "uniform_log_density",
        {
            "action": Values("A", gradient=False, low=-1.0, high=1.0),
            "low": Values("A", batched=False, low=-1.2, high=-1.1),
            "high": Values("A", batched=False, low=1.1, high=1.2),
        },
        sums=True,
    ),
    Row(
        "tanh_gaussian_log_prob",
        {
            "mean": Values("A"),
            "log_std": Values("A", batched=False, high=1.0),
            "action": Values("A", optional=True, low=-0.9, high=0.9),
            "pre_tanh": Values("A", optional=True),
            "margin": Knob(1e-3, (0.0, 1.0, -1.0), (1e-6, 1e-4, 1e-3, 1e-2, 5e-2)),
        },
        alternatives=("action", "pre_tanh"),
        sums=True,
    ),
    Row("mpo_weights", {"q": Values("N"), "temperature": _POSITIVE}),
    Row(
        "mpo_temperature_loss",
        {"log_temperature": Values(batched=False), "q": Values("N", gradient=False), "max_kl": _POSITIVE},
    ),
    Row(
        "top_fraction_weights",
        {"advantage": Values(), "fraction": _SHARE, "mask": Flags(optional=True)},
        batch_statistic=True,
        one_number=True,
    ),
    Row(
        "advantage_indicator",
        {"advantage": Values(), "fraction": _SHARE, "mask": Flags(optional=True)},
        batch_statistic=True,
        one_number=True,
    ),
    Row("best_of_n", {"q": Values("N", gradient=False), "action": Values("NA")}),
    Row(
        "gaussian_kl_penalty",
        {
            "mean": Values("A"),
            "log_std": Values("A", high=1.0),
            "reference_mean": Values("A"),
            "reference_log_std": Values("A", batched=False, high=1.0),
        },
    ),
    Row("categorical_kl_penalty", {"logits": Values("N"), "reference_logits": Values("N")}),
    Row(
        "sampled_kl_penalty",
        {
            "log_prob": Values(),
            "reference_log_prob": Values(),
            "estimator": Option("k3"),
            "max_exponent": _EXPONENT,
        },
    ),
    Row("overestimation_gap", {"q": Values(), "observed_return": Values(), **_EXISTING}, **_STATISTIC),
    Row("q_gap", {"q_policy": Values(), "q_data": Values(), **_EXISTING}, **_STATISTIC),
    Row("clip_fraction", {"x": Values(), "low": _BELOW, "high": _ABOVE, **_EXISTING}, constant=True, **_STATISTIC),
    Row("td_error_scale", {"prediction": Values(), "target": Values(), **_EXISTING}, **_STATISTIC),
    Row(
        "support_coverage",
        {"probability": Values("N", made=lambda x: x.softmax(-1)), "support": Flags("N", share=0.5), **_EXISTING},
        **_STATISTIC,
    ),
    Row("f_divergence_penalty", {"ratio": Values(low=0.1), "divergence": Option("kl")}),
    Row("f_conjugate", {"y": Values(), "divergence": Option("soft_chi_square"), "max_exponent": _EXPONENT}),
    Row(
        "dice_weights",
        {
            "advantage": Values(),
            "divergence": Option("kl"),
            "temperature": _POSITIVE,
            "max_exponent": _EXPONENT,
        },
    ),
    Row("dual_dice_loss", {**_BRANCHED, "terminated": Flags(), "exponent": _MAGNITUDE, "discount": _UNIT}),
    Row(
        "algae_dice_loss",
        {**_PRICED, "exponent": _MAGNITUDE, "temperature": _POSITIVE, "discount": _UNIT},
    ),
    Row(
        "opti_dice_loss",
        {
            **_PRICED,
            "divergence": Option("kl"),
            "temperature": _POSITIVE,
            "discount": _UNIT,
            "max_exponent": _EXPONENT,
        },
    ),
    Row(
        "smodice_loss",
        {**_PRICED, "temperature": _POSITIVE, "discount": _UNIT},
        batch_statistic=True,
        one_number=True,
    ),
    Row(
        "td3_bc_loss",
        {
            "q": Values(),
            "policy_action": Values("A"),
            "data_action": Values("A"),
            "q_weight": _POSITIVE,
            "epsilon": _SMALL,
            "normalizer": _SIZE,
        },
        batch_statistic=True,
    ),
    Row(
        "ddpg_bc_loss",
        {
            "q": Values(),
            "log_prob": Values(),
            "bc_weight": _NOT_NEGATIVE,
            "epsilon": _SMALL,
            "normalizer": _SIZE,
        },
        batch_statistic=True,
    ),
    Row(
        "rebrac_policy_loss",
        {
            "q": Values(),
            "policy_action": Values("A"),
            "data_action": Values("A"),
            "bc_weight": _NOT_NEGATIVE,
            "epsilon": _SMALL,
            "normalizer": _SIZE,
        },
        batch_statistic=True,
    ),
    Row(
        "rebrac_target",
        {
            **_REWARD,
            "next_value": Values(),
            "next_policy_action": Values("A"),
            "next_data_action": Values("A"),
            "terminated": Flags(),
            "done": Flags(),
            "bc_weight": _NOT_NEGATIVE,
            "discount": _UNIT,
        },
        sums=True,
    ),
    Row("discrete_sac_loss", {"logits": Values("N"), "q": Values("N"), "temperature": _NOT_NEGATIVE}),
    Row(
        "discrete_soft_target",
        {
            **_REWARD,
            "next_q": Values("N"),
            "next_logits": Values("N"),
            "terminated": Flags(),
            "temperature": _NOT_NEGATIVE,
            "discount": _UNIT,
        },
        sums=True,
    ),
    Row(
        "munchausen_reward",
        {
            **_REWARD,
            "log_prob": Values(high=1.0),
            "temperature": _NOT_NEGATIVE,
            "bonus_weight": _UNIT,
            "min_bonus": Knob(-0.7, (0.5, float("nan")), (-3.0, -1.0, -0.5, -0.1, 0.0)),
        },
    ),
    Row(
        "advantage_learning_reward",
        {**_REWARD, "q_data": Values(), "value": Values(), "bonus_weight": _UNIT},
    ),
    Row("symlog", {"x": Values()}),
    Row("symexp", {"x": Values()}),
    Row("signed_hyperbolic", {"x": Values(), "epsilon": _NOT_NEGATIVE}),
    Row("signed_parabolic", {"x": Values(), "epsilon": _NOT_NEGATIVE}),
    Row(
        "smoothed_action",
        {
            "action": Values("A", low=-1.0, high=1.0),
            "noise": Values("A"),
            "low": Values("A", batched=False, low=-1.1, high=-0.9),
            "high": Values("A", batched=False, low=0.9, high=1.1),
            "noise_scale": Knob(0.3, (-1.0, float("nan")), (0.0, 0.1, 0.2, 0.5, 1.0)),
            "max_noise": Knob(0.4, (-1.0, float("nan")), (0.0, 0.1, 0.3, 0.5, 2.0)),
        },
    ),
    Row(
        "normalize_advantage",
        {
            "advantage": Values(),
            "mean_square": Values(batched=False, low=0.5, gradient=False),
            "rate": Knob(0.3, (0.0, 1.5, -0.1, float("nan")), (0.01, 0.1, 0.5, 0.9, 1.0)),
            "mask": Flags(optional=True),
        },
        batch_statistic=True,
        sums=True,
        one_number=True,
    ),
    Row("sac_policy_loss", {"log_prob": Values(), "q": Values(), "temperature": _NOT_NEGATIVE}),
    Row(
        "temperature_loss",
        {"log_temperature": Values(batched=False), "log_prob": Values(gradient=False), "target_entropy": _ANY},
    ),
    Row("flow_point", {"noise": Values("A"), "action": Values("A"), "time": _FRACTION}),
    Row("flow_matching_loss", {"velocity": Values("A"), "noise": Values("A"), "action": Values("A")}),
    Row(
        "distillation_loss",
        {
            "policy_action": Values("A"),
            "target": Values("A", gradient=False),
            "q": Values(),
            "distillation_weight": _NOT_NEGATIVE,
        },
    ),
    Row(
        "guided_field",
        {"unconditional": Values("A"), "conditional": Values("A"), "guidance_scale": _ANY},
    ),
    Row(
        "value_flow_loss",
        {"prediction": Values(critics="case"), "noise": Values(), "target": Values(gradient=False)},
    ),
    Row(
        "floq_loss",
        {"prediction": Values("N", critics="case"), "noise": Values("N"), "target": Values(gradient=False)},
    ),
    Row("diffusion_point", {"noise": Values("A"), "action": Values("A"), "alpha_bar": _FRACTION}),
    Row(
        "diffusion_prediction",
        {
            "model_output": Values("A"),
            "point": Values("A"),
            "alpha_bar": _FRACTION,
            "given": Option("epsilon"),
            "wanted": Option("v"),
        },
    ),
    Row(
        "diffusion_loss",
        {
            "model_output": Values("A"),
            "noise": Values("A"),
            "action": Values("A"),
            "alpha_bar": _FRACTION,
            "prediction_type": Option("v"),
        },
    ),
    Row(
        "q_score_penalty",
        {"model_output": Values("A"), "action_gradient": Values("A"), "alpha_bar": _FRACTION},
    ),
    Row(
        "path_kl_penalty",
        {
            "model_output": Values("A"),
            "target": Values("A", gradient=False),
            "alpha_bar": _FRACTION,
            "step_variance": _FRACTION,
        },
    ),
    Row(
        "support_mask",
        {"logits": Values("N"), "threshold": Knob(0.3, (1.0, -0.1, float("nan")), (0.0, 0.1, 0.3, 0.5, 0.9))},
    ),
    Row(
        "evidence_lower_bound",
        {"log_prob": Values(), "latent_mean": Values("D"), "latent_log_std": Values("D"), "kl_weight": _NOT_NEGATIVE},
        sums=True,
    ),
    Row(
        "elbo_loss",
        {"log_prob": Values(), "latent_mean": Values("D"), "latent_log_std": Values("D"), "kl_weight": _NOT_NEGATIVE},
    ),
    Row("spot_penalty", {"log_weight": Values("N")}),
    Row(
        "mmd_penalty",
        {
            "policy_action": Values("NA"),
            "data_action": Values("MA"),
            "kernel": Option("gaussian"),
            "bandwidth": _POSITIVE,
            "estimator": Option("unbiased"),
        },
    ),
    Row(
        "nearest_distance_penalty",
        {
            "policy_action": Values("A"),
            "observation": Values("D", gradient=False),
            "data_action": Values("MA", batched=False),
            "data_observation": Values("MD", batched=False, gradient=False),
            "observation_scale": _NOT_NEGATIVE,
            "chunk": Count(3),
        },
        one_number=True,
    ),
]

UPDATES = ["polyak_update_"]
"""Functions that work in place on modules: they return nothing, and have tests of their own."""

TOOLS = [
    "bootstrap_interval",
    "check_ends",
    "check_log_ratio",
    "compile_update",
    "episode_bounds",
    "episode_windows",
    "magic_value",
    "stratified_bootstrap_interval",
]
"""Functions of functions, of values that are looked at, or of places alone, which have tests of their own."""


def _cases(row: Row) -> Iterator[Case]:
    optional = [name for name, argument in row.arguments.items() if getattr(argument, "optional", False)]
    critics = any(getattr(argument, "critics", "never") == "case" for argument in row.arguments.values())
    if row.alternatives:
        yield from (Case(row, (name,)) for name in row.alternatives)
        return
    yield Case(row, ())
    if optional:
        yield from (Case(row, (name,)) for name in optional if name not in row.together and len(optional) > 1)
        yield Case(row, tuple(optional))
    if critics:
        yield Case(row, tuple(optional) if "mask" not in optional else (), critics=True)


CASES = [case for row in LEDGER for case in _cases(row)]
OF_RUNS = [case for case in CASES if case.of(Knob) and not case.row.one_number]
"""With knobs of which each run may have its own."""
TAILED = [case for case in CASES if case.row.tail]
MULTIPLIERS = {"temperature_loss": "log_temperature", "cql_lagrange_losses": "log_multiplier"}
"""Dual variables of which each run may have its own."""
OF_ALL = {"smodice_loss"}
"""Losses whose mean is one of all samples, so that its denominator is one number too."""


def leaves(result: Any) -> list[Tensor]:
    """The tensors of a result: itself, or the fields of a NamedTuple."""
    return [result] if isinstance(result, Tensor) else list(result)


def _factors(count: int) -> Tensor:
    return 0.5 + torch.arange(count, dtype=torch.float64) * (5**0.5 - 1) / 2 % 1


def total(result: Any) -> Tensor:
    """One number that every element of the result enters with another factor, far from those of its neighbors."""
    parts = [leaf for leaf in leaves(result) if leaf.is_floating_point()]
    factors = [n * _factors(part.numel()).to(part).view(part.shape) for n, part in enumerate(parts, 1)]
    return sum(
        ((part * factor).sum() for part, factor in zip(parts, factors, strict=True)), torch.zeros(()).to(parts[0])
    )
