"""Why an update is not one graph, in one sentence: what stands on which line of the user's code, and the mend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary

import torch

import offline_losses

_OWN = tuple(path for package in (torch, offline_losses) for path in package.__path__)

_MENDS: Sequence[tuple[str, str, str]] = (
    (r"GradScaler", "GradScaler looks at the gradients", "Train in bfloat16, which needs no scaler"),
    (r"attribute of an optimizer", "an attribute of an optimizer is set", "Keep it elsewhere"),
    (r"LRScheduler|Scheduler\.step|ReduceLROnPlateau", "a scheduler is stepped inside", "Step it after the update"),
    (r"load_state_dict", "a network is loaded inside", "Copy it with polyak_update_(slow, fast, polyak=1.0)"),
    (r"numpy.*random|_numpy\.random", "NumPy draws random numbers", "Draw them with torch, or outside the update"),
    (r"Random\.|random\.py", "Python draws random numbers", "Draw them with torch, or outside the update"),
    (r"\(Generator\)", "it draws from a generator of its own", "Draw from torch's default generator"),
    (r"[Dd]ata.dependent", "a value decides what is done", "Use torch.where, or decide outside the update"),
    (r"item\(|tolist|numpy\(\)|__float__", "a value is looked at", "Return the tensor and look at it outside"),
    (r"`print`|logging", "something is printed", "Return it and print it outside the update"),
    (r"consumed", "a tensor outlives its backward pass", "Detach what is returned or stored"),
    (r"grad_fn", "the gradient flows into what was computed outside", "Compute it inside, or detach it"),
    (r"next\(\)|tp_iternext|[Ii]terator", "the batch is drawn inside", "Draw it outside and pass it as an argument"),
    (r"time\.", "the clock is read", "Read it outside the update"),
    (r"Observed exception", "an exception is raised there", "See whether it is meant to be raised"),
)
"""What Dynamo's words mean for an update, and what to do about it."""

_CHANGES: Sequence[tuple[str, str, str]] = (
    (r"incoming\[", "what has a gradient before the call changes", "Clear the same gradients in every call"),
    (
        r"G\['(?:__import_\w+'\]\.)?(\w+)",
        r"the global `\1` changes",
        "Make it an attribute of the object whose method is compiled, or an int among the arguments",
    ),
    (r"len\(", r"`{guard}` becomes untrue", "Append outside the update"),
    (r"", r"`{guard}` becomes untrue", "Pass it as a float or a tensor among the arguments"),
)
"""What a guard that fails says of an update, and what to do about it."""

CHANGING = "RecompileError", "FailOnRecompileLimitHit", "RecompileLimitExceeded"
"""Dynamo's errors for code that would be compiled again and again."""


def why(error: Exception) -> str:
    """What to tell of an error that was raised while an update was traced or compiled."""
    text = str(error)
    if type(error).__name__ in CHANGING:
        return "{} at every call. {}".format(*_changed(text))
    place = _place(error)
    for pattern, what, mend in _MENDS:
        if re.search(pattern, f"{text.split('Developer debug context')[0]} {place}"):
            return f"{what}{place}. {mend}"
    return f"{type(error).__name__}, {' '.join(text.split('Hint:')[0].split())[:200]}{place}"


def changes_always(error: Exception) -> bool:
    """Whether another try would be as futile as this one."""
    return type(error).__name__ in CHANGING


def caused_by(error: BaseException | None, kind: type[Exception]) -> bool:
    """Whether an error of this kind lies behind one of Dynamo's."""
    while error is not None:
        if isinstance(error, kind) or isinstance(getattr(error, "inner_exception", None), kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: Exception) -> str:
    """The innermost line of the user's."""
    frames: Sequence[FrameSummary] = getattr(error, "real_stack", None) or ()
    for frame in reversed(frames):
        if not frame.filename.startswith(_OWN):
            return f" in {Path(frame.filename).name}, line {frame.lineno} (`{frame.line}`)"
    return ""


def _changed(text: str) -> tuple[str, str]:
    """Of the guards that failed, what the last graph expected, on which line, and the mend."""
    failures = re.findall(r"^\s*- \d+/\d+: (.*)$", text, re.MULTILINE)
    if not failures:
        return "something that it reads changes", _CHANGES[-1][-1]
    guard, _, rest = failures[0].partition("#")
    line = re.search(r"(.*?)\s+# .*?([\w-]+\.py):(\d+)", rest)
    place = f" in {line[2]}, line {line[3]} (`{line[1].strip()}`)" if line and "_compile/" not in rest else ""
    guard = guard.strip()
    sign, what, mend = next(words for words in _CHANGES if re.match(words[0], guard))
    return re.sub(rf"{sign}.*", what, guard, count=1).format(guard=guard) + place, mend
