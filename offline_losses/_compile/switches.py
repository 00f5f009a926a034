"""What keeps functions from being compiled, and how it is said."""

from __future__ import annotations

import os
import warnings

from offline_losses._compile import private

warned: set[str] = set()


class Unsupported(Exception):
    """No generated code for this call; the message says why."""


class Process:
    """Whether this process has generated code, and whether it is the child of one that had, without its threads."""

    compiled = forked = False

    @classmethod
    def note_fork(cls) -> None:
        """Called in the child."""
        cls.forked = cls.forked or cls.compiled


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Process.note_fork)


def switched_off() -> str | None:
    """Why nothing may be compiled now, if that is so."""
    switches = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
    if switch := next((name for name in switches if os.environ.get(name) == "1"), None):
        return f"{switch}=1 switches the compiler off"
    if private.stance() == "force_eager":
        return 'torch.compiler.set_stance("force_eager") is in force'
    if Process.forked:
        return "this process was forked from one with compiled functions, whose threads it lacks; start it by spawn"
    return private.missing_for_calls()


def warn_once(reason: str) -> None:
    """Tell once why functions run eagerly."""
    if reason not in warned:
        warned.add(reason)
        warnings.warn(f"offline_losses.fused runs eagerly: {reason}.", stacklevel=4)


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return next(iter(str(error).splitlines()), "")[:200]
