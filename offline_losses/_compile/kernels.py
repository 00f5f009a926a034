"""The C++ of an update in as few files as there are cores: what every file begins with takes the compiler longest."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any

from offline_losses._compile.private import COMPILER, KERNELS
from offline_losses._compile.tracer import replaced

FEW = 4
"""So many kernels have a file of their own."""

_BINDINGS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cstdlib>
#include <stdexcept>
static void* (*data_of_tensor)(PyObject*);
template <typename T> static inline T argument(PyObject* args, size_t n) {
    return static_cast<T>(data_of_tensor(PyTuple_GET_ITEM(args, n)));
}
template <> inline int64_t argument<int64_t>(PyObject* args, size_t n) {
    auto number = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, n));
    if (number == -1 && PyErr_Occurred()) throw std::runtime_error("expected int arg");
    return number;
}
template <typename F> static inline PyObject* guarded(PyObject* args, Py_ssize_t count, F run) {
    try {
        if (PyTuple_GET_SIZE(args) != count) throw std::runtime_error("another number of arguments");
        run();
        Py_RETURN_NONE;
    } catch (std::exception const& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "unhandled error");
    }
    return nullptr;
}
"""
"""How Python calls a kernel: tensors as the address of their data, sizes as numbers."""

_MODULE = """
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "kernel", NULL, -1, methods};
PyMODINIT_FUNC PyInit_kernel(void) {
    auto address = std::getenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR");
    if (!address) {
        PyErr_SetString(PyExc_RuntimeError, "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR must be set");
        return nullptr;
    }
    data_of_tensor = reinterpret_cast<decltype(data_of_tensor)>(std::strtoull(address, nullptr, 10));
    return PyModule_Create(&definition);
}
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel that is not compiled yet: the function `kernel` of a file of C++, and the types of its arguments."""

    types: tuple[str, ...]
    source: str


@contextmanager
def together() -> Iterator[None]:
    """Compile the kernels of each generated module when it waits for them, many in one file."""
    kind = KERNELS.AsyncCompile
    each, wait = kind.cpp_pybinding, kind.wait

    def note(self: Any, types: list[str], source: str) -> Kernel:
        return Kernel(tuple(types), source)

    def build(self: Any, scope: dict[str, Any]) -> None:
        kernels = {name: value for name, value in scope.items() if isinstance(value, Kernel)}
        try:
            scope.update(zip(kernels, _compiled([*kernels.values()]), strict=True))
        except Exception:  # one by one, as PyTorch does it
            scope.update({name: each(self, [*kernel.types], kernel.source) for name, kernel in kernels.items()})
        wait(self, scope)

    without_header = COMPILER.config.patch(cpp_cache_precompile_headers=False)  # it takes longer than two such files
    with replaced(kind, "cpp_pybinding", note), replaced(kind, "wait", build), without_header, _widest_vectors_alone():
        yield


@contextmanager
def _widest_vectors_alone() -> Iterator[None]:
    """Try the widest vectors first, beside the tracing, and no others if a program with those runs.

    PyTorch tries all of them when the first kernel is written, and takes these.
    """
    chosen = COMPILER.config.cpp.simdlen is not None or os.getenv("ATEN_CPU_CAPABILITY")
    tried = KERNELS.valid_isa_list.cache_info().currsize
    if chosen or tried or platform.machine() not in ("x86_64", "AMD64"):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        widest = pool.submit(copy_context().run, _widest)  # with the compiler's settings, which are this thread's
        with replaced(KERNELS.cpu_vec_isa, "valid_vec_isa_list", widest.result):
            yield


@cache
def _widest() -> list[Any]:
    known = KERNELS.isa_checker()
    return next(([isa] for isa in KERNELS.isa_list if all(flag in known for flag in str(isa).split()) and isa), [])


def _compiled(kernels: Sequence[Kernel]) -> list[Any]:
    """Their functions."""
    unique = sorted(set(kernels), key=lambda kernel: (-len(kernel.source), kernel.source))
    files: list[list[Kernel]] = [[] for _ in range(min(KERNELS.get_compile_threads(), -(-len(unique) // FEW)))]
    for kernel in unique:
        min(files, key=lambda file: sum(len(each.source) for each in file)).append(kernel)
    if not files:
        return []
    loads = [KERNELS.CppPythonBindingsCodeCache.load_async(_source(file), "cpu") for file in files]
    with ThreadPoolExecutor(len(files)) as pool:
        modules = list(pool.map(lambda load: load(), loads))
    found = {
        kernel: getattr(module, f"kernel_{k}")
        for file, module in zip(files, modules, strict=True)
        for k, kernel in enumerate(file)
    }
    return [found[kernel] for kernel in kernels]


def _source(kernels: Sequence[Kernel]) -> str:
    """One file, with the first lines of all of them once, and a module of Python with a function for each."""
    lines = [kernel.source.splitlines() for kernel in kernels]
    includes = dict.fromkeys(line for each in lines for line in each if line.startswith("#include"))
    parts, methods = [*includes], []
    for k, each in enumerate(lines):
        body = [line for line in each if not line.startswith("#include")]
        parts += [f"#define kernel kernel_{k}", f"namespace kernel_{k}_ {{", *body, "}", "#undef kernel"]
    parts.append(_BINDINGS)
    for k, kernel in enumerate(kernels):
        types = [each.replace("const ", "") for each in kernel.types]
        arguments = ", ".join(f"argument<{each}>(args, {n})" for n, each in enumerate(types))
        call = f"kernel_{k}_::kernel_{k}({arguments});"
        parts.append(
            f"static PyObject* call_{k}(PyObject*, PyObject* args) "
            f"{{ return guarded(args, {len(types)}, [&] {{ {call} }}); }}"
        )
        methods.append(f'{{"kernel_{k}", call_{k}, METH_VARARGS, ""}}')
    parts.append(f"static PyMethodDef methods[] = {{{', '.join(methods)}, {{NULL, NULL, 0, NULL}}}};")
    return "\n".join([*parts, _MODULE])
