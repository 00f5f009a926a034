"""Kernels that are compiled together: each in its own namespace of one file, which is loaded once."""

from __future__ import annotations

import platform
from functools import cache

import pytest
import torch

from offline_losses._compile import kernels
from offline_losses._compile.kernels import FEW, Kernel, together
from offline_losses._compile.private import COMPILER, KERNELS
from offline_losses._compile.switches import switched_off

pytestmark = [
    pytest.mark.skipif(switched_off() is not None, reason="the compiler is switched off"),
    pytest.mark.skipif(KERNELS.missing() is not None, reason="this PyTorch compiles each by itself"),
]
SOURCE = """
#include <torch/csrc/inductor/cpp_prefix.h>
static inline float next(float x) {{ return x + {step}; }}
extern "C"  void  kernel(const float* in_ptr0, float* out_ptr0, const int64_t ks0)
{{
    for (int64_t i = 0; i < ks0; i++) out_ptr0[i] = next(in_ptr0[i]);
}}
"""
TYPES = ["const float*", "float*", "const int64_t"]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are compiled."""
    found: list[str] = []
    own = kernels._source

    def spied(file: list[Kernel]) -> str:
        found.append(own(file))
        return found[-1]

    monkeypatch.setattr(kernels, "_source", spied)
    return found


def test_kernels_of_a_module_are_few_files(files: list[str]) -> None:
    """Names that several of them use do not meet, and what comes twice is compiled once."""
    with together():
        module = KERNELS.AsyncCompile()
        scope = {f"k{i}": module.cpp_pybinding(TYPES, SOURCE.format(step=i % FEW)) for i in range(FEW + 1)}
        module.wait(scope)
    assert len(files) == 1
    assert files[0].count("PyObject* call_") == FEW
    x, y = torch.arange(5.0), torch.empty(5)
    for i in range(FEW + 1):
        scope[f"k{i}"](x, y, 5)
        assert torch.equal(y, x + i % FEW)
    with pytest.raises(RuntimeError, match="another number of arguments"):
        scope["k0"](x, y)


def test_what_cannot_lie_in_one_file_is_compiled_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same functions come out."""

    def fails(file: list[Kernel]) -> str:
        raise ValueError

    monkeypatch.setattr(kernels, "_source", fails)
    with together():
        module = KERNELS.AsyncCompile()
        scope = {"k": module.cpp_pybinding(TYPES, SOURCE.format(step=7))}
        module.wait(scope)
    x, y = torch.arange(5.0), torch.empty(5)
    scope["k"](x, y, 5)
    assert torch.equal(y, x + 7)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one kind of vectors")
def test_vectors_are_looked_for_with_the_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which PyTorch keeps for each thread."""
    monkeypatch.setattr(KERNELS, "valid_isa_list", cache(list))
    monkeypatch.setattr(kernels, "_widest", lambda: [COMPILER.config.cpp.vec_isa_ok])
    for allowed in (True, False):
        with COMPILER.config.patch({"cpp.vec_isa_ok": allowed}), kernels._widest_vectors_alone():
            assert KERNELS.cpu_vec_isa.valid_vec_isa_list() == [allowed]
