"""Stealing a shielded model, measured: what a placement is worth against somebody who keeps what he sees."""

from holdfast.shielding.theft.attack import Curve, Point, Theft
from holdfast.shielding.theft.knockoff import Knockoff, best_copy, train_copy
from holdfast.shielding.theft.similarity import Similarity, fitted_scale, overall, similarity
from holdfast.shielding.theft.surrogate import ScaledCodes, folded, surrogate, zero_data_scale
from holdfast.shielding.theft.transfer import TransferSet, ask
from holdfast.shielding.theft.view import Seen, View, view, view_under

__all__ = [
    "Curve",
    "Knockoff",
    "Point",
    "ScaledCodes",
    "Seen",
    "Similarity",
    "Theft",
    "TransferSet",
    "View",
    "ask",
    "best_copy",
    "fitted_scale",
    "folded",
    "overall",
    "similarity",
    "surrogate",
    "train_copy",
    "view",
    "view_under",
    "zero_data_scale",
]
