"""How a linear model is computed on encrypted rows with rotations by powers of two alone.

A row comes as slots: feature i in slot i mod 4096 of ciphertext ⌊i / 4096⌋. Each score has to go
out in slot 0 of a ciphertext of its own. In between, one ciphertext carries all values of a group
of rows, value v in every slot j with j mod `period` = v:

1. place   several rows share the slots: row block m is rotated to begin at slot -m·stride
           (each row is first multiplied by a constant, which makes it less sensitive to noise)
2. babies  rotations by 0 … babies-1 of the input
3. giants  Σ_g rotate(Σ_b diagonal(g·babies + b) ⊙ baby_b, g·babies): baby-step giant-step over the
           generalised diagonals of the weights (Halevi and Shoup, Algorithms in HElib, CRYPTO
           2014; Faster homomorphic linear transformations in HElib, CRYPTO 2018), by Horner's rule
4. fold    rotations by period, 2·period … 2048, each added
5. spread  value v to slot 0, by a tree in which each value costs one rotation

Products take place one level above the result's, the sum of each giant step is rescaled, and all
later rotations take place at the result's level, where they are cheapest. Slots are complex, so
they carry two values each: two classes (weights w_k + i·w_k'), or two rows (x + i·√2·y).

The fold goes all the way round: every slot of a result holds a score of the same group, or nothing.
Stopping once slot 0 is right would save a rotation or two, but leave partial sums in other slots,
and so tell the key owner more of the weights than the scores do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from score.schemes.ei.arithmetic import Slots
from shared.ei import DEGREE, SLOTS
from shared.linear import Array

PAIR_FACTOR = float(np.sqrt(2))
"""Of the second row of a pair: i·√2 in every slot is X^(N/4) + X^(3N/4), exactly; i alone is not
a polynomial with integer coefficients."""


@dataclass(frozen=True, slots=True)
class Operations:
    """Counts of the operations that take time, by the level they are done at."""

    rotations: Counter[int] = field(default_factory=Counter)
    products: Counter[int] = field(default_factory=Counter)
    rescales: Counter[int] = field(default_factory=Counter)

    def cost(self) -> float:
        """Time in units of one number-theoretic transform of one residue polynomial.

        SEAL's key switching transforms a level-l polynomial back (l), each of its residues to
        the l other primes (l²), and both results from the special prime to l (2 + 2l).
        """
        return (
            sum(n * (level + 1) * (level + 2) for level, n in self.rotations.items())
            + sum(n * 2 * level for level, n in self.rescales.items())
            + sum(n * 0.6 * level for level, n in self.products.items())
        )


@dataclass(frozen=True, slots=True)
class Value:
    """One score: which row of the group, which class, and where in a complex value it is."""

    row: int
    label: int
    imaginary: bool
    factor: float
    """What it is multiplied by."""


@dataclass(frozen=True)
class Plan:
    """One way to score `rows` rows together."""

    classes: int
    features: int
    level: int
    """Primes that results have left; the input has one more."""
    paired_rows: bool
    """Complex slots carry two rows rather than two classes."""
    blocks: int
    """Rows, or pairs of rows, that are placed in one ciphertext."""
    period: int
    babies: int

    @property
    def parts(self) -> int:
        """Ciphertexts a row."""
        return -(-self.features // SLOTS)

    @property
    def rows(self) -> int:
        return self.blocks * self.rows_a_block

    @property
    def rows_a_block(self) -> int:
        return 2 if self.paired_rows else 1

    @property
    def values_a_block(self) -> int:
        """Complex values that come of a block."""
        return self.classes if self.paired_rows else -(-self.classes // 2)

    @property
    def stride(self) -> int:
        return SLOTS // _power_of_two(self.blocks)

    @property
    def giants(self) -> int:
        return self.period // self.babies

    @property
    def folds(self) -> tuple[int, ...]:
        """Rotations of the fold."""
        return tuple(2**i for i in range(self.period.bit_length() - 1, SLOTS.bit_length() - 1))

    @property
    def nbytes(self) -> int:
        """Memory of the encoded weights, at most."""
        return self.parts * self.period * (self.level + 1) * DEGREE * 8

    @property
    def outputs(self) -> int:
        """Complex values that come of the group."""
        return self.blocks * self.values_a_block

    def values(self, output: int) -> Iterator[Value]:
        """The scores in complex value `output`."""
        block, index = divmod(output, self.values_a_block)
        for half in range(2):
            if self.paired_rows:
                factor = PAIR_FACTOR if half else 1.0
                value = Value(2 * block + half, index, bool(half), factor)
            else:
                value = Value(block, 2 * index + half, bool(half), 1.0)
            if value.label < self.classes:
                yield value

    def operations(self) -> Operations:
        """What scoring the rows takes, if no diagonal of the weights is zero."""
        early = self.parts * (self.blocks - 1 + self.babies - 1)
        late = self.giants - 1 + len(self.folds) + self.outputs - 1
        above = self.level + 1
        return Operations(
            rotations=Counter({above: early, self.level: late}),
            products=Counter({above: self.parts * (self.rows + self.period)}),
            rescales=Counter({above: self.giants}),
        )

    def combined(self, by_class: Array) -> Slots:
        """Weights or intercepts, two classes in each complex number (unless rows are paired)."""
        if self.paired_rows:
            return by_class.astype(np.complex128)
        even, odd = by_class[0::2].astype(np.complex128), by_class[1::2]
        even[: len(odd)] += 1j * odd
        return even

    def diagonal(self, combined: Slots, part: int, diagonal: int) -> Slots:
        """The factors for ciphertext `part`, rotated left by `diagonal mod babies`.

        A slot whose value needs no feature that this diagonal brings there is zero.
        """
        giant = diagonal - diagonal % self.babies
        slots = np.arange(SLOTS) - giant  # a giant step moves the sum left by as much
        block, index = np.divmod(slots % self.period, self.values_a_block)
        feature = (slots + diagonal + block * self.stride) % SLOTS + part * SLOTS
        used = (block < self.blocks) & (feature < self.features)
        factors = np.zeros(SLOTS, dtype=np.complex128)
        factors[used] = combined[index[used], feature[used]]
        return factors

    def intercepts(self, intercept: Array) -> Slots:
        """What is added to the folded sum; `intercept` has shape (classes,)."""
        block, index = np.divmod(np.arange(SLOTS) % self.period, self.values_a_block)
        values = self.combined(intercept)
        if self.paired_rows:
            values = values * (1 + 1j * PAIR_FACTOR)
        return np.where(block < self.blocks, values[index], 0)


def parent(output: int) -> tuple[int, int]:
    """Of the spread's tree: the value that value `output` > 0 is rotated from, and by how much."""
    step = output & -output
    return output - step, step


def plans(
    classes: int, features: int, *, level: int, max_rows: int, max_bytes: int
) -> tuple[Plan, ...]:
    """The cheapest plan for each number of rows that fits in one ciphertext, singles first.

    A plan for several rows takes at most `max_bytes` of encoded weights.
    """
    best: dict[int, Plan] = {}
    room = SLOTS // _power_of_two(min(features, SLOTS))
    for paired in (False, True):
        for blocks in range(1, min(room, max_rows) + 1):
            for plan in _options(classes, features, level, paired, blocks):
                if plan.rows > 1 and (plan.rows > max_rows or plan.nbytes > max_bytes):
                    continue
                rival = best.get(plan.rows)
                if rival is None or _cost(plan) < _cost(rival):
                    best[plan.rows] = plan
    return tuple(best[rows] for rows in sorted(best))


def _options(classes: int, features: int, level: int, paired: bool, blocks: int) -> Iterator[Plan]:
    """Plans that differ in their period and number of baby steps."""
    values = blocks * (classes if paired else -(-classes // 2))
    period = _power_of_two(values)
    while period <= SLOTS:
        babies = 1
        while babies <= period:
            yield Plan(classes, features, level, paired, blocks, period, babies)
            babies *= 2
        period *= 2


class Grouping:
    """Divides a batch into groups, each scored by one of `plans`, as cheaply as possible."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        """One of the plans must be for a single row."""
        self._costs = [(plan, _cost(plan)) for plan in plans]
        self._best: list[tuple[float, tuple[Plan, ...]]] = [(0.0, ())]

    def groups(self, rows: int) -> tuple[Plan, ...]:
        """Plans whose rows add up to `rows`."""
        while len(self._best) <= rows:
            self._best.append(self._cheapest(len(self._best)))
        return self._best[rows][1]

    def _cheapest(self, rows: int) -> tuple[float, tuple[Plan, ...]]:
        candidates = [
            (cost + self._best[rows - plan.rows][0], plan)
            for plan, cost in self._costs
            if plan.rows <= rows
        ]
        cost, plan = min(candidates, key=lambda candidate: candidate[0])
        return cost, (plan, *self._best[rows - plan.rows][1])


def _cost(plan: Plan) -> float:
    return plan.operations().cost()


def _power_of_two(number: int) -> int:
    """The smallest power of two from `number` up."""
    return 1 << (number - 1).bit_length()
