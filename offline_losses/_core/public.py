"""What a public function makes of a call that does not fit it: NumPy's numbers, another library's words, two devices.

The first become Python's. The others are refused by Python and PyTorch on their own, and their refusal is put into the
terms of the function. A call that fits costs nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_DIVIDES = "temperature, which divides: an inverse temperature beta is 1 / beta here"
_TERMINATED = "terminated, which is not True at a time limit"
_LOGARITHM = "log_std, its logarithm"

OURS: Mapping[str, Mapping[str, str]] = {
    "tau": {
        "threshold": "threshold",
        "expectile": "expectile",
        "quantile": "quantile",
        "polyak": "polyak",
        "temperature": "temperature",
    },
    "alpha": {
        "q_weight": "q_weight",
        "bc_weight": "bc_weight",
        "bonus_weight": "bonus_weight",
        "temperature": "temperature",
        "penalty_weight": "penalty_weight",
        "distillation_weight": "distillation_weight",
        "level": "level, 1 - alpha",
    },
    "beta": {
        "temperature": _DIVIDES,
        "q_weight": "q_weight",
        "bc_weight": "bc_weight",
        "penalty_weight": "penalty_weight",
        "kl_weight": "kl_weight",
    },
    "eta": {"kl_weight": "kl_weight, 1 / eta"},
    "loss_type": {"kind": "kind"},
    "policy_chosen_logps": {"chosen_log_ratio": "chosen_log_ratio, the policy's less the reference's"},
    "policy_rejected_logps": {"rejected_log_ratio": "rejected_log_ratio, the policy's less the reference's"},
    "logps": {"log_prob": "log_prob"},
    "gamma": {"discount": "discount"},
    "lam": {
        "lambda_": "lambda_",
        "trace": "trace",
        "temperature": "temperature",
        "penalty_weight": "penalty_weight",
        "exponent": "exponent",
    },
    "lmbda": {"lambda_": "lambda_", "trace": "trace"},
    "lambda_": {"trace": "trace", "max_weight": "max_weight"},
    "gae_lambda": {"lambda_": "lambda_"},
    "done": {"terminated": _TERMINATED},
    "dones": {"done": "done", "terminated": _TERMINATED},
    "terminal": {"terminated": _TERMINATED},
    "terminals": {"terminated": _TERMINATED},
    "truncated": {"done": "done, which is terminated | truncated"},
    "clip": {"max_weight": "max_weight", "max_exponent": "max_exponent"},
    "max_clip": {"max_exponent": "max_exponent"},
    "exp_adv_max": {"max_weight": "max_weight"},
    "kappa": {"delta": "delta"},
    "epsilon": {"max_kl": "max_kl"},
    "eps": {"epsilon": "epsilon", "margin": "margin"},
    "input": {"prediction": "prediction"},
    "prediction": {"logits": "logits", "prediction_type": "prediction_type"},
    "mu": {"mean": "mean"},
    "std": {"log_std": _LOGARITHM},
    "sigma": {
        "log_std": _LOGARITHM,
        "bandwidth": "bandwidth",
        "sigma_to_bin_ratio": "sigma_to_bin_ratio, sigma over the distance of two atoms",
    },
    "noise_clip": {"max_noise": "max_noise"},
    "policy_noise": {"noise_scale": "noise_scale"},
    "w": {"guidance_scale": "guidance_scale"},
    "bins": {"support": "support, the atoms"},
    "taus": {"quantile": "quantile"},
    "logits": {"q": "q"},
    "n_step": {"n": "n"},
    "rho": {"log_ratio": "log_ratio, its logarithm", "ratio": "ratio"},
    "log_rho": {"log_ratio": "log_ratio"},
    "log_rhos": {"log_ratio": "log_ratio"},
    "rho_thresh": {"max_ratio": "max_ratio"},
    "rho_bar": {"max_ratio": "max_ratio"},
    "clip_rho_threshold": {"max_ratio": "max_ratio"},
    "c_thresh": {"max_trace": "max_trace"},
    "c_bar": {"max_trace": "max_trace"},
    "q": {"q_data": "q_data"},
    "value": {"q_data": "q_data"},
    "importance_weight": {"weight": "weight"},
    "attention_mask": {"mask": "mask, which is True where the element exists"},
    "completion_mask": {"mask": "mask, which is True where the element exists"},
    "padding_mask": {"mask": "mask, which is True where the element exists"},
}
"""What others call an argument, what it is here, and what else is to be known of it."""


def public(function: Callable[P, R]) -> Callable[P, R]:
    """The same function; a call that does not fit it is refused in its own words."""
    numbers, explain = _numbers, _explained

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (TypeError, RuntimeError) as error:
            found = numbers(kwargs)
            if found:
                return call(*args, **{**kwargs, **found})
            explained = explain(function, error, args, kwargs)
            if explained is None:
                raise
            raise explained from None

    # A code object of its own, since Dynamo counts compilations by it, in the module of the function, where doctest and
    # pickle look for it.
    code = call.__code__.replace(co_name=function.__name__)
    named = FunctionType(code, function.__globals__, function.__name__, None, call.__closure__)
    return cast("Callable[P, R]", wraps(function)(named))


def _numbers(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's; in a region that is compiled, where they are arrays, as tensors."""
    found = {name: x for name, x in kwargs.items() if not isinstance(x, Tensor) and getattr(x, "ndim", None) == 0}
    if torch.compiler.is_compiling():
        return {name: torch.as_tensor(x, dtype=torch.float64) for name, x in found.items()}
    return {name: x.item() for name, x in found.items()}


def _explained(
    function: Callable[..., Any], error: Exception, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Exception | None:
    """The refusal that says more, if there is one."""
    parameters = signature(function).parameters
    if isinstance(error, RuntimeError):
        return _on_devices(function.__name__, {**dict(zip(parameters, args, strict=False)), **kwargs})
    by_position = [p.name for p in parameters.values() if p.kind is not Parameter.KEYWORD_ONLY]
    if len(args) > len(by_position) and len(parameters) > len(by_position):
        name = list(parameters)[len(by_position)]
        got = f"{len(args)} arguments by position, of which {len(by_position)} are taken"
        return TypeError(f"{function.__name__}: {name}: expected by name, got {got}. Write {name}=....")
    for name in kwargs:
        if name not in parameters:
            known = ", ".join(parameters)
            return TypeError(
                f"{function.__name__}: {name}: expected one of the arguments {known}, got {name}. "
                f"{_mend(name, parameters)}"
            )
    return None


def _mend(name: str, parameters: Mapping[str, Parameter]) -> str:
    ours = [said for argument, said in OURS.get(name, {}).items() if argument in parameters]
    ours = ours or get_close_matches(name, parameters, 1)
    return f"Say {' or '.join(ours)}." if ours else "Leave it out."


def _on_devices(function: str, arguments: Mapping[str, Any]) -> Exception | None:
    """Which tensor lies elsewhere than the first; one number on the CPU goes with all."""
    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor) and (x.ndim or not x.is_cpu)}
    for name, x in tensors.items():
        first, like = next(iter(tensors.items()))
        if x.device != like.device:
            return ValueError(
                f"{function}: {name}: expected a tensor on {like.device} as {first} is, got one on {x.device}. "
                f"Move it with {name}.to({first}.device)."
            )
    return None
