"""Small faults: a module with one operator, number, name, default, check or constant changed."""

from __future__ import annotations
import __future__ as future

import ast
import math
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

OTHER: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.BitXor: ast.BitOr, ast.USub: ast.UAdd},
}
NAMES = {
    **{"amax": "amin", "amin": "amax", "minimum": "maximum", "maximum": "minimum", "max": "min", "min": "max"},
    **{"mean": "sum", "sum": "mean", "all": "any", "any": "all", "exp": "expm1", "expm1": "exp", "log": "abs"},
    **{"log1p": "log", "sqrt": "abs", "square": "abs", "abs": "square", "detach": "clone", "clamp_min": "clamp_max"},
    **{"clamp_max": "clamp_min", "argmax": "argmin", "argmin": "argmax", "cumsum": "cumprod", "sigmoid": "tanh"},
    **{"logsigmoid": "sigmoid", "zeros_like": "ones_like", "ones_like": "zeros_like", "roll": "flip"},
}
"""What one operator, or function, is mistaken for."""


class Mutant(NamedTuple):
    """A changed statement; `function` and `text` are what the list of equivalent ones knows it by."""

    function: str
    text: str
    line: int
    lines: range
    """Where its function stands; for a constant of the module, the whole module."""
    code: CodeType
    header: str

    def apply(self, module: ModuleType, functions: Iterable[FunctionType]) -> None:
        """Change the functions, or the constant, where they are, so that whoever has imported them has the mutant."""
        space = dict(vars(module))
        exec(compile(self.header, "header", "exec", future.annotations.compiler_flag), space)
        if self.lines.stop == sys.maxsize:
            name, old = self.function, getattr(module, self.function)
            for other in [other for other in sys.modules.values() if getattr(other, "__dict__", {}).get(name) is old]:
                setattr(other, name, space[name])
        codes = {(code.co_firstlineno, code.co_name): code for code in nested(self.code)}
        for function in functions:
            place = function.__code__.co_firstlineno, function.__code__.co_name
            function.__code__ = codes.get(place, function.__code__)
            if place[0] == self.lines.start and place in codes:
                header = space[function.__name__]
                function.__defaults__, function.__kwdefaults__ = header.__defaults__, header.__kwdefaults__


def nested(code: CodeType) -> Iterator[CodeType]:
    """A code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """A field of a node, and what it becomes."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) | ast.UnaryOp(op=op) if type(op) in OTHER:
            yield "op", OTHER[type(op)]()
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield "operand", ast.UnaryOp(node.op, node.operand)
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                if type(op) in OTHER:
                    yield "ops", [*ops[:index], OTHER[type(op)](), *ops[index + 1 :]]
        case ast.Constant(value=bool()):
            yield "value", not node.value
        case ast.Constant(value=float(value)) if abs(value) >= 1e-3:
            yield "value", value / 2 if math.isfinite(value) else 0.0
        case ast.Constant(value=int(value) | float(value)):
            yield "value", value + 1
        case ast.Attribute(attr=name) if name in NAMES:
            yield "attr", NAMES[name]
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield "func", ast.Name(NAMES[name], ast.Load())
        case ast.Call(func=ast.Attribute(attr="where") | ast.Name(id="where"), args=[condition, one, other]):
            yield "args", [condition, other, one]
        case ast.IfExp() | ast.If() | ast.While():
            yield "test", ast.UnaryOp(ast.Not(), node.test)
        case ast.Expr(value=ast.Call()):
            yield "value", ast.Constant(None)


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """A statement, or an expression, and its parts; no statement inside it, no type, no decorator, no default."""
    yield node
    left_out = {"annotation", "returns", "decorator_list", "args" if isinstance(node, ast.FunctionDef) else ""}
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if field not in left_out and isinstance(child, ast.AST) and not isinstance(child, ast.stmt):
                yield from inside(child)


def mutants(path: Path, names: Container[str] | None = None) -> list[Mutant]:
    """All of a module: what its functions do, the defaults of their arguments, and its constants."""
    tree = ast.parse(path.read_text())
    found, flags = [], future.annotations.compiler_flag

    def add(
        name: str, top: ast.stmt, function: ast.stmt, lines: range, statement: ast.stmt, nodes: Iterable[ast.AST]
    ) -> None:
        for node in nodes if names is None or name in names else ():
            for field, new in changes(node):
                old = getattr(node, field)
                setattr(node, field, new)
                dropped = isinstance(node, ast.Expr)
                text = f"without {ast.unparse(old)}" if dropped else ast.unparse(statement).split("\n")[0]
                header = text
                if isinstance(function, ast.FunctionDef):
                    header = f"def {function.name}({ast.unparse(function.args)}): pass"
                with suppress(SyntaxError, ValueError):  # what stands in a pattern may not become anything
                    code = compile(ast.fix_missing_locations(ast.Module([top], [])), str(path), "exec", flags)
                    found.append(Mutant(name, text, getattr(node, "lineno", lines.start), lines, code, header))
                setattr(node, field, old)

    for top in tree.body:
        if isinstance(top, ast.Assign) and isinstance(top.targets[0], ast.Name):
            add(top.targets[0].id, top, top, range(sys.maxsize), top, inside(top.value))
        members = top.body if isinstance(top, ast.ClassDef) else [top]
        for function in (member for member in members if isinstance(member, ast.FunctionDef)):
            name = f"{top.name}.{function.name}" if isinstance(top, ast.ClassDef) else function.name
            first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
            lines = range(first, (function.end_lineno or first) + 1)
            arguments = function.args
            positional = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) or sys.maxsize :]
            given = zip(positional + arguments.kwonlyargs, arguments.defaults + arguments.kw_defaults, strict=True)
            for argument, default in given:
                if default is not None:
                    assign = ast.Assign([ast.Name(argument.arg)], default, lineno=default.lineno)
                    add(name, top, function, lines, assign, inside(default))
            for body in function.body[ast.get_docstring(function) is not None :]:
                for statement in (node for node in ast.walk(body) if isinstance(node, ast.stmt)):
                    add(name, top, function, lines, statement, inside(statement))
    return found
