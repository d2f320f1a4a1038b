"""What RecBole 1.2.1 needs from old libraries, and what it must not do to the process.

Its own `Config` is not used at all: it reads sys.argv, evaluates strings as code, sets
CUDA_VISIBLE_DEVICES and names folders. `Settings` holds the same values without any of that.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


@functools.cache
def prepare() -> None:
    """Give back what numpy 2 and scipy 1.13 took away, before RecBole is imported."""
    from scipy.sparse import dok_matrix

    gone = {"float_": np.float64, "float": float, "int": int, "complex": complex, "object": object,
            "str": str, "unicode_": np.str_, "complex_": np.complex128}
    present = vars(np)
    for alias, stands_for in gone.items():
        if alias not in present:
            setattr(np, alias, stands_for)
    if not hasattr(dok_matrix, "_update"):  # private, gone in scipy 1.13; used by LightGCN, …
        dok_matrix._update = lambda matrix, values: matrix._dict.update(values)


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Inside, RecBole's modules are imported and its models made, with our patches and in
    silence; arguments, logging, warnings, environment and torch's anomaly detection (which an
    import of RecBole switches on for the whole process) are as before afterwards."""
    prepare()
    root = logging.getLogger()
    argv, level, handlers = sys.argv, root.level, list(root.handlers)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    anomalies = torch.is_anomaly_enabled()
    sys.argv = argv[:1]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            root.setLevel(logging.ERROR)  # RecBole's models warn through the root logger
            yield
    finally:
        torch.autograd.set_detect_anomaly(anomalies)
        sys.argv = argv
        root.setLevel(level)
        root.handlers[:] = handlers
        if devices is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, warnings that come from RecBole's modules (old torch functions) are not shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"recbole\.")
        yield


class Settings:
    """Stands in for RecBole's Config: unknown keys are None in brackets, absent as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.final_config_dict = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self.final_config_dict.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.final_config_dict[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.final_config_dict

    def __getattr__(self, key: str) -> Any:
        if key == "final_config_dict":  # while a copy is being made
            raise AttributeError(key)
        try:
            return self.final_config_dict[key]
        except KeyError:
            raise AttributeError(key) from None


FIELDS: Mapping[str, Any] = {
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "RATING_FIELD": "rating",
    "TIME_FIELD": "timestamp", "LABEL_FIELD": "label", "NEG_PREFIX": "neg_",
    "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length",
    "POSITION_FIELD": "position_id", "HEAD_ENTITY_ID_FIELD": "head_id",
    "TAIL_ENTITY_ID_FIELD": "tail_id", "RELATION_ID_FIELD": "relation_id",
    "ENTITY_ID_FIELD": "entity_id", "MASK_INDEX": "MASK_INDEX", "POS_ITEMS": "Pos_item_id",
    "NEG_ITEMS": "Neg_item_id", "MASK_ITEM_SEQ": "Mask_item_id_list",
    "INVERSE_ITEM_SEQ": "Inverse_item_id_list", "require_pow": False, "single_spec": True,
    "enable_amp": False, "shuffle": True, "repeatable": True, "kg_reverse_r": False}


@contextlib.contextmanager
def standing_in(name: str, **functions: Any) -> Iterator[None]:
    """Inside, `import name` gives these functions where the package is not installed."""
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        yield
        return
    module = types.ModuleType(name)
    vars(module).update(functions)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def scatter_mean(src: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None) -> Tensor:
    """Mean of the rows of src (n, d) that share an index (n,): (dim_size, d); zero where none."""
    assert dim == 0
    size = int(index.max()) + 1 if dim_size is None else dim_size
    total = src.new_zeros(size, *src.shape[1:]).index_add(0, index, src)
    count = torch.bincount(index, minlength=size).clamp_min(1).to(src.dtype)
    return total / count.reshape(-1, *[1] * (src.ndim - 1))


def scatter_softmax(src: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Softmax of src (n, …) among the rows that share an index (n,)."""
    assert dim in (0, -1)
    size = int(index.max()) + 1
    wide = index.reshape(-1, *[1] * (src.ndim - 1)).expand_as(src)
    highest = src.new_full((size, *src.shape[1:]), -torch.inf).scatter_reduce(
        0, wide, src.detach(), "amax")
    raised = (src - highest.gather(0, wide)).exp()
    return raised / raised.new_zeros(size, *src.shape[1:]).index_add(0, index, raised)[index]
