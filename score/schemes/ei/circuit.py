"""A plan with a model's weights encoded, run on ciphertexts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from score.schemes.ei.arithmetic import Arithmetic
from score.schemes.ei.plan import PAIR_FACTOR, Plan, parent
from shared import ei
from shared.linear import LinearModel

LIFT = {1: 2.0**8, 2: 2.0**14}
"""What inputs are multiplied by, by the results' level, so that the noise of rotating them counts
for less. It is taken from the weights' scale under one prime, and left in the results under two."""
RESULT_SCALE = {1: ei.SCALE, 2: ei.SCALE * LIFT[2]}
"""Of the first value of a slot, by the results' level. The noise of rotations is some 2^20 in
slot 0, the worst of all: SEAL's digits are not centred, so errors gather near X = 1."""


class Circuit:
    """Scores a group of rows by one plan."""

    def __init__(self, plan: Plan, model: LinearModel, arithmetic: Arithmetic) -> None:
        """Encode the weights: 0.7 ms and 131 kB a prime for each of `parts`·`period` diagonals."""
        self.plan = plan
        self._do = arithmetic
        above = plan.level + 1
        combined = plan.combined(model.weights)
        lift = LIFT[plan.level]
        self._scale = RESULT_SCALE[plan.level]
        # exactly what makes the scale of a rescaled product RESULT_SCALE
        scale = self._scale * ei.PRIMES[plan.level] / (ei.SCALE * lift)
        self._diagonals: dict[tuple[int, int], Any] = {}
        for part in range(plan.parts):
            for diagonal in range(plan.period):
                factors = plan.diagonal(combined, part, diagonal)
                plain = arithmetic.encode(factors, level=above, scale=scale)
                if not plain.is_zero():
                    self._diagonals[part, diagonal] = plain
        if not self._diagonals:
            # SEAL refuses to compute with a product that is zero; this one is as good as
            least = np.full(ei.SLOTS, 1 / scale, dtype=np.complex128)
            self._diagonals[0, 0] = arithmetic.encode(least, level=above, scale=scale)
        self._intercepts = arithmetic.encode(
            plan.intercepts(model.intercept), level=plan.level, scale=self._scale
        )
        self._first, self._second = (
            arithmetic.encode(np.full(ei.SLOTS, factor), level=above, scale=lift)
            for factor in (1.0 + 0j, 1j * PAIR_FACTOR)
        )

    def run(self, rows: Sequence[Sequence[Any]], keys: Any) -> Iterator[Any]:
        """The plan's complex values for `rows`, in order, each in slot 0 of a ciphertext.

        `rows[r][part]` are ciphertexts one level above the plan's. A ciphertext that is yielded is
        computed with again: leave it as it is.
        """
        babies = [
            self._babies(self._placed([row[part] for row in rows], keys), keys)
            for part in range(self.plan.parts)
        ]
        total = self._giants(babies, keys)
        for steps in self.plan.folds:
            self._do.add(total, self._do.rotate(total, steps, keys))
        if not self._intercepts.is_zero():
            self._do.add_plain(total, self._intercepts)
        yield from self._spread(total, keys)

    def _placed(self, rows: Sequence[Any], keys: Any) -> Any:
        """All rows in one ciphertext: blocks at slots 0, -stride, -2·stride …"""
        if self.plan.paired_rows:
            blocks = [self._pair(*pair) for pair in zip(rows[0::2], rows[1::2], strict=True)]
        else:
            blocks = [self._do.multiply(row, self._first) for row in rows]
        placed = blocks.pop()
        while blocks:
            placed = self._do.rotate(placed, self.plan.stride, keys)
            self._do.add(placed, blocks.pop())
        return placed

    def _pair(self, first: Any, second: Any) -> Any:
        """Two rows in one ciphertext: x + i·√2·y."""
        pair = self._do.multiply(first, self._first)
        self._do.add(pair, self._do.multiply(second, self._second))
        return pair

    def _babies(self, placed: Any, keys: Any) -> list[Any]:
        babies = [placed]
        for steps in range(1, self.plan.babies):
            source, step = parent(steps)
            babies.append(self._do.rotate(babies[source], step, keys))
        return babies

    def _giants(self, babies: list[list[Any]], keys: Any) -> Any:
        """Horner's rule from the last giant step down."""
        total = None
        for giant in reversed(range(self.plan.giants)):
            if total is not None:
                total = self._do.rotate(total, self.plan.babies, keys)
            addend = self._giant(babies, giant)
            if addend is None:
                continue
            self._do.rescale(addend, scale=self._scale)
            if total is None:
                total = addend
            else:
                self._do.add(total, addend)
        return total

    def _giant(self, babies: list[list[Any]], giant: int) -> Any:
        """Σ diagonal ⊙ baby of one giant step; None when all its diagonals are zero."""
        total = None
        for part, rotated in enumerate(babies):
            for step, baby in enumerate(rotated):
                plain = self._diagonals.get((part, giant * self.plan.babies + step))
                if plain is None:
                    continue
                product = self._do.multiply(baby, plain)
                if total is None:
                    total = product
                else:
                    self._do.add(total, product)
        return total

    def _spread(self, total: Any, keys: Any) -> Iterator[Any]:
        """Value v of `total` in slot 0, for each v. Holds no more than the path to the root."""
        path = [(0, total)]
        yield total
        for output in range(1, self.plan.outputs):
            source, step = parent(output)
            while path[-1][0] != source:
                path.pop()
            rotated = self._do.rotate(path[-1][1], step, keys)
            path.append((output, rotated))
            yield rotated
