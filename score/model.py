"""The model owner's name for `shared.model`: a key owner who has the model compares with it."""

from shared.model import load_model, sha256_of

__all__ = ["load_model", "sha256_of"]
