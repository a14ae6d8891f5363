"""How LR faces are made from HR ones, and how models are scored with them."""

from fhrt.protocols.evaluate import Row, compare, evaluate
from fhrt.protocols.pairs import PROTOCOLS, Pairs, make_pairs
from fhrt.protocols.report import write_report

__all__ = ["PROTOCOLS", "Pairs", "Row", "compare", "evaluate", "make_pairs", "write_report"]
