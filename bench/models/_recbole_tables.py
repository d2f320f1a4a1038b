"""Where the vectors of users and items lie inside RecBole's modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.models._recbole_data import ArrayDataset


class Place(NamedTuple):
    """The rows start..stop−1 of one parameter belong to users or items, in our order."""

    key: str
    parameter: str
    start: int
    stop: int
    role: str


def places(module: nn.Module, dataset: ArrayDataset) -> list[Place]:
    """Embedding tables with a row per user or item, at least two numbers wide.

    A table that several fields share holds users and items at the offsets of their fields.
    Entities of a knowledge graph begin with the items. Weights of width one are biases.
    """
    n_users, n_items = dataset.data.n_users, dataset.data.n_items
    found = []
    for name, table, fields in _tables(module):
        if table.embedding_dim < 2:
            continue
        parameter = f"{name}.weight"
        if fields is not None:
            for field, offset in fields:
                role = {dataset.uid_field: "user", dataset.iid_field: "item"}.get(field)
                if role:
                    size = n_users if role == "user" else n_items
                    found.append(Place(f"{role}:{name}", parameter, offset + 1,
                                       offset + 1 + size, role))
            continue
        rows = table.num_embeddings
        as_user = rows == n_users + 1
        as_item = rows in (n_items + 1, n_items + 2) or (
            "entity" in name and rows == getattr(dataset, "entity_num", -1))
        if as_user and as_item:  # as many users as items: the name decides
            as_user = "user" in name.lower() or name.startswith("UI")
            as_item = not as_user
        if as_user:
            found.append(Place(name, parameter, 1, n_users + 1, "user"))
        elif as_item:
            found.append(Place(name, parameter, 1, n_items + 1, "item"))
    return found


Fields = list[tuple[str, int]]


def _tables(module: nn.Module) -> Iterator[tuple[str, nn.Embedding, Fields | None]]:
    """(name, table, its fields with their offsets or None) of each embedding of categories."""
    from recbole.model.layers import FLEmbedding, FMEmbedding

    shared: dict[str, Fields] = {}
    numbers: set[str] = set()
    for name, part in module.named_modules():
        for fields, table in _field_tables(part, FMEmbedding):
            shared[f"{name}.{table}" if name else table] = fields
        if isinstance(part, FLEmbedding):
            numbers.add(f"{name}.embedding")
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and name not in numbers and "_seq_" not in name \
                and "float_" not in name:
            yield name, part, shared.get(name)


def _field_tables(part: nn.Module, shared_type: type) -> Iterator[tuple[Fields, str]]:
    """The tables of `part` that hold several fields one after another."""
    names: Any = getattr(part, "token_field_names", None)
    table = getattr(part, "token_embedding_table", None)
    if isinstance(table, shared_type) and names:
        yield _with_offsets(names, part.token_field_dims), "token_embedding_table.embedding"
    elif isinstance(table, nn.ModuleDict) and names:
        for kind in table:
            yield (_with_offsets(names[kind], part.token_field_dims[kind]),  # type: ignore
                   f"token_embedding_table.{kind}.embedding")
    features = getattr(part, "token_feature_names", None)
    if features and hasattr(part, "token_embeddings"):  # FFM: a table per field
        tables: Any = part.token_embeddings
        for k in range(len(tables)):
            yield _with_offsets(features, part.token_feature_dims), f"token_embeddings.{k}"


def _with_offsets(names: Any, sizes: Any) -> Fields:
    offsets, total = [], 0
    for name, size in zip(names, sizes, strict=True):
        offsets.append((name, total))
        total += size
    return offsets


@torch.no_grad()
def share(mine: nn.Module, clean: nn.Module) -> None:
    """Give `mine` the parameters of the same model built without injected users.

    Injected users are the last users. In a table that several fields share, their rows push
    what follows, so such a table is copied field by field.
    """
    target, source = dict(mine.named_parameters()), dict(clean.named_parameters())
    fields = {f"{name}.weight": f for name, _, f in _tables(mine) if f is not None}
    before = {f"{name}.weight": f for name, _, f in _tables(clean) if f is not None}
    for name, value in source.items():
        if name not in fields:
            target[name][tuple(slice(0, n) for n in value.shape)] = value
            continue
        ends = [offset for _, offset in before[name][1:]] + [len(value)]
        for (_, to), (_, start), stop in zip(fields[name], before[name], ends, strict=True):
            target[name][to:to + stop - start] = value[start:stop]


def copy_equal_buffers(mine: nn.Module, clean: nn.Module) -> None:
    """Structures drawn at random when a model is built (neighbours of entities), from `clean`."""
    for name in ("adj_entity", "adj_relation"):
        value = vars(clean).get(name)
        if isinstance(value, Tensor) and vars(mine)[name].shape == value.shape:
            setattr(mine, name, value.clone())
