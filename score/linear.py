"""The model owner's name for `shared.linear`: a key owner who has the model compares with it."""

from shared.linear import Array, LinearModel

__all__ = ["Array", "LinearModel"]
