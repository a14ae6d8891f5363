"""How LR faces are made from HR ones, and how a model is scored with them."""

from fhrt.protocols.evaluate import Row, evaluate
from fhrt.protocols.pairs import PROTOCOLS, Pairs, make_pairs

__all__ = ["PROTOCOLS", "Pairs", "Row", "evaluate", "make_pairs"]
