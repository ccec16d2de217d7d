"""Seeded uniforms: the only source of randomness in MiniStreet.

Three streams per seed (layout, look, noise) are independent, and every object draws from a fork of its own.
So what one object does with its numbers, or whether it exists at all at some gap, moves nothing else in the scene.
"""

import numpy as np

STREAMS = {"layout": 1, "look": 2, "noise": 3}


def generator(seed: int, stream: str) -> np.random.Generator:
    """The bit generator of one stream; only its raw uniforms are used, which numpy keeps stable across versions."""
    return np.random.Generator(np.random.PCG64([seed, STREAMS[stream]]))


class Draws:
    """A finite run of uniforms in [0, 1), taken one by one.

    >>> draws = Draws([0.0, 0.5, 0.25, 0.75])
    >>> draws(10, 20), draws.fork(1)(), draws.chance(0.5)
    (10.0, 0.5, True)
    """

    def __init__(self, values: list[float]):
        self._values = values
        self._next = 0

    @classmethod
    def stream(cls, seed: int, stream: str, count: int) -> "Draws":
        return cls(generator(seed, stream).random(count).tolist())

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number of U(low, high)."""
        u = self._values[self._next]
        self._next += 1
        return low + (high - low) * u

    def index(self, n: int) -> int:
        """The next whole number of 0 .. n-1."""
        return int(self() * n)

    def chance(self, p: float) -> bool:
        """True with probability p; true for every larger p, too."""
        return self() < p

    def sign(self, p: float = 0.5) -> int:
        """+1 with probability p, else -1."""
        return 1 if self() < p else -1

    def fork(self, count: int = 40) -> "Draws":
        """The next `count` numbers as draws of their own; the parent moves on by `count` whatever becomes of them."""
        start, self._next = self._next, self._next + count
        if self._next > len(self._values):
            raise IndexError(f"{len(self._values)} draws are used up; give the stream a larger count.")
        return Draws(self._values[start : self._next])
