"""Kernels that are compiled together: each in its own namespace of one file, which is loaded once."""

from __future__ import annotations

import platform
from functools import cache
from types import SimpleNamespace
from typing import Any

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


def test_kernels_are_shared_out_by_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among as many files as there are threads and kernels for, the longest first, each to the shortest file."""
    files: list[list[int]] = []

    def load(kernels_of_file: list[Kernel], _: str) -> Any:
        files.append([len(kernel.source) for kernel in kernels_of_file])
        return lambda: SimpleNamespace(**{f"kernel_{k}": kernel for k, kernel in enumerate(kernels_of_file)})

    monkeypatch.setattr(kernels, "_source", lambda kernels_of_file: kernels_of_file)
    monkeypatch.setattr(KERNELS, "CppPythonBindingsCodeCache", SimpleNamespace(load_async=load))
    monkeypatch.setattr(KERNELS, "get_compile_threads", lambda: 2)
    given = [Kernel((), "x" * length) for length in (10, 3, 41, 30, 3, 20, 30)]
    assert kernels._compiled(given) == given
    assert files == [[41, 10], [30, 20, 3]]
    files.clear()
    assert kernels._compiled(given[:FEW]) == given[:FEW]
    assert len(files) == 1
    monkeypatch.setattr(KERNELS, "get_compile_threads", lambda: 8)
    files.clear()
    kernels._compiled([Kernel((), "x" * length) for length in range(1, 2 * FEW + 2)])
    assert len(files) == 3
    assert kernels._compiled([]) == []


class Vectors:
    """A kind of vectors, whose program runs or does not."""

    def __init__(self, flags: str, runs: bool) -> None:
        self.flags, self.runs = flags, runs

    def __str__(self) -> str:
        return self.flags

    def __bool__(self) -> bool:
        return self.runs


@pytest.mark.parametrize(
    ("known", "widest"), [({"a", "b"}, 1), ({"a", "b", "c"}, 1), ({"b"}, 3), ({"c"}, None), (set(), None)]
)
def test_the_widest_vectors_are_known_and_run(
    known: set[str], widest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of their flags, and their program; those after them are not tried."""
    kinds = [Vectors("b c", False), Vectors("a b", True), Vectors("a", True), Vectors("b", True), Vectors("c", False)]
    monkeypatch.setattr(KERNELS, "isa_checker", lambda: known)
    monkeypatch.setattr(KERNELS, "isa_list", kinds)
    kernels._widest.cache_clear()
    try:
        assert kernels._widest() == ([] if widest is None else [kinds[widest]])
    finally:
        kernels._widest.cache_clear()


@pytest.mark.parametrize(
    ("machine", "simdlen", "variable", "tried", "alone"),
    [
        ("x86_64", None, None, 0, True),
        ("AMD64", None, None, 0, True),
        ("arm64", None, None, 0, False),
        ("x86_64", 256, None, 0, False),
        ("x86_64", None, "avx2", 0, False),
        ("x86_64", None, None, 1, False),
    ],
)
def test_vectors_that_are_chosen_are_left_alone(
    machine: str, simdlen: int | None, variable: str | None, tried: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a setting, by the environment, or since they have been tried already; and on machines of other kinds."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    if variable:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", variable)
    monkeypatch.setattr(KERNELS, "valid_isa_list", SimpleNamespace(cache_info=lambda: SimpleNamespace(currsize=tried)))
    monkeypatch.setattr(kernels, "_widest", list)
    own = KERNELS.cpu_vec_isa.valid_vec_isa_list
    with COMPILER.config.patch({"cpp.simdlen": simdlen}), kernels._widest_vectors_alone():
        assert (KERNELS.cpu_vec_isa.valid_vec_isa_list is not own) == alone
    assert KERNELS.cpu_vec_isa.valid_vec_isa_list is own


def test_no_header_is_compiled_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """While kernels are compiled together."""
    monkeypatch.setattr(kernels, "_widest", list)
    with COMPILER.config.patch(cpp_cache_precompile_headers=True), together():
        assert not COMPILER.config.cpp_cache_precompile_headers
