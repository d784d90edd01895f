"""Options that are two numbers, as text or as a configuration's list."""

import ast
import math
from collections.abc import Callable
from typing import NamedTuple

from .errors import ConfigurationError


class Pair(NamedTuple):
    """What each of an option's two numbers must be: a test, the same in words, and an example of both."""

    holds: Callable[[float], bool]
    bound: str
    example: str

    def read(self, flag: str, value) -> tuple[float, float]:
        """The two numbers of an option, whose text is not run.

        Raises:
            ConfigurationError: `value` is no two numbers, or one that must not be.
        """
        try:
            numbers = tuple(map(float, ast.literal_eval(value) if isinstance(value, str) else value))
            if len(numbers) == 2 and all(map(self.holds, numbers)):
                return numbers
        except (SyntaxError, TypeError, ValueError, OverflowError, MemoryError, RecursionError):
            pass  # no literal, or none of numbers
        raise ConfigurationError(f"{flag} {value!r} is not two numbers of {self.bound}; try '{self.example}'")


BETAS = Pair(lambda x: 0 <= x < 1, "at least 0 and below 1", "(0.9, 0.999)")  # rates at which averages decay
EPSILONS = Pair(lambda x: 0 <= x < math.inf, "at least 0", "(1e-30, 1e-3)")  # of Adafactor
