"""Formulas as text, from a command line: parsed into a small tree of known operations, never evaluated as Python.

    Formula("1 + t")(t=times)        Formula("(x^2 - 1)^2", variables=("x",))(x=points)

A formula has numbers, the named variables, pi and e, + - * / ** (or ^), and the functions below. Everything else is
refused when the formula is made.
"""

import ast
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfm.basics.errors import UserError

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
}
CONSTANTS = {"pi": math.pi, "e": math.e}
OPERATORS: dict[type[ast.AST], Callable[..., Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
LONGEST = 500  # characters; this limits the depth of the tree too


@dataclass(frozen=True)
class Formula:
    """A formula in named variables.

    Args:
        text: the formula.
        variables: names that it may use.
        where: the key of the formula in the configuration, for messages.

    Raises:
        UserError: the text is no formula, or uses an unknown name or construct.
    """

    text: str
    variables: Sequence[str] = ("t",)
    where: str = "expression"

    def __post_init__(self) -> None:
        self._check(self._tree)

    def __call__(self, **values: Tensor) -> Tensor:
        """Return the value, in the type of the variables, broadcast to their common shape."""
        shape = torch.broadcast_shapes(*(value.shape for value in values.values()))
        like = next(iter(values.values()))
        return self._value(self._tree, values, like).expand(shape)

    @cached_property
    def _tree(self) -> ast.AST:
        if len(self.text) > LONGEST:
            raise UserError(f"{self.where}: a formula of {len(self.text)} characters; allowed: {LONGEST} at most")
        try:
            return ast.parse(self.text.replace("^", "**").strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise UserError(f"{self.where}='{self.text}': not a formula; try '1 + {self.variables[0]}^2'") from None

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=bool()) | ast.Constant(value=complex()):
                self._refuse(ast.unparse(node))
            case ast.Constant(value=int() | float()):
                pass
            case ast.Name(id=name) if name in self.variables or name in CONSTANTS:
                pass
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                self._check(operand)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
                self._check(left)
                self._check(right)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                self._check(argument)
            case _:
                self._refuse(ast.unparse(node))

    def _refuse(self, part: str) -> None:
        names = ", ".join([*self.variables, *CONSTANTS, *FUNCTIONS])
        raise UserError(f"{self.where}='{self.text}': unknown '{part}'; allowed: numbers, + - * / ^ ( ), {names}")

    def _value(self, node: ast.AST, values: dict[str, Tensor], like: Tensor) -> Tensor:
        match node:
            case ast.Constant(value=number):
                # We make a tensor here: integer powers of Python numbers could grow without bound.
                return torch.tensor(float(number), dtype=like.dtype, device=like.device)  # type: ignore[arg-type]
            case ast.Name(id=name):
                constant = CONSTANTS.get(name) if name not in values else None
                if constant is None:
                    return values[name]
                return torch.tensor(constant, dtype=like.dtype, device=like.device)
            case ast.UnaryOp(op=op, operand=operand):
                return OPERATORS[type(op)](self._value(operand, values, like))
            case ast.BinOp(op=op, left=left, right=right):
                return OPERATORS[type(op)](self._value(left, values, like), self._value(right, values, like))
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                return FUNCTIONS[name](self._value(argument, values, like))
        raise AssertionError("__post_init__ has checked the tree")
