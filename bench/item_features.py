"""Feature vectors of items: those that a dataset brings, or its attributes as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import Dataset

Matrix = npt.NDArray[np.float32]
ATTRIBUTES = "attributes"


def available(data: Dataset) -> list[str]:
    """Names of the feature vectors that can be had, the dataset's own first."""
    return [*data.item_features, *([ATTRIBUTES] if data.item_attributes else [])]


def feature_matrix(data: Dataset, name: str = "") -> Matrix:
    """The vectors of one name, float32 (items, width); the first that there is if not named.

    "attributes" gives one column per category of the item attributes (a film of three genres
    has three ones) and one per number, standardised; missing is 0. Columns that are the same
    for all items are left out.

    Raises:
        KeyError: there are no such vectors.
    """
    known = available(data)
    if not known or (name and name not in known):
        raise KeyError(name or ATTRIBUTES)
    chosen = name or known[0]
    if chosen in data.item_features:
        return np.asarray(data.item_features[chosen], np.float32)
    columns = [c for key in sorted(data.item_attributes)
               for c in _columns(data.item_attributes[key])]
    return np.stack([c for c in columns if np.ptp(c) > 0] or [np.zeros(data.n_items, np.float32)],
                    axis=1)


def _columns(values: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
    if values.dtype.kind == "f":
        there = np.isfinite(values)
        spread = float(values[there].std()) if there.any() else 0.0
        centred = np.where(there, values - (values[there].mean() if there.any() else 0.0), 0.0)
        return [(centred / (spread or 1.0)).astype(np.float32)]
    several = [v if isinstance(v, tuple) else ((v,) if v else ()) for v in values.tolist()]
    words = sorted({w for v in several for w in v})
    return [np.array([w in v for v in several], np.float32) for w in words]
