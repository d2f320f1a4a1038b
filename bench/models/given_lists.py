"""Lists made elsewhere: another library's, a chat model's, a live system's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.models._given import ListRecommender


class GivenLists(ModelPlugin):
    """Ranks each user's items as a file says; what is not in the list stands below all of it.

    The file has a row per user and item (columns by name, or by position from 1), with a rank (1
    the best), a score (high the best), or in the order of the rows; or with `layout: lists` a
    user and its items per line. Ids are those of the data's own files. Equal ranks or scores are
    ties. Of an item that is twice in a list the better place counts (counting both would find it
    twice). Users and items that the data does not have are left out; items that the user took
    before are passed over, and the list moves up, as for every model. All of that is counted in
    the cell's facts under "training": list_users, users_without_list, rows_of_unknown_users,
    rows_of_unknown_items, rows_repeated, rows_already_known, rows_used.

    Lists of K items or more, measured at K or less, give exactly the numbers of those lists.
    Where a list is shorter, or absent, the places left are filled with what is not in it:
    `rest: tie` in expectation over all orders, which adds little to accuracy and up to a whole
    item per place to coverage; `rest: rare-first` with the items least popular in train, the same
    ones for everybody, which comes closest to leaving the places empty. Lists do not learn:
    poisoned training does not reach them. No paper; the lists of Di Palma et al. are measured in
    bench/grids/papers/chat-lists-ml-small.yaml.

    Raises InputError, with file and line, for what cannot be read.

    Example: models: [{given-lists: {path: lists.tsv, rank: 3}}]
    """

    name = "given-lists"
    path: str = param("", "the file; ~ and .gz are understood")
    called: str = param("", "name of who made the lists, for tables")
    layout: str = param("rows", "rows: a user and an item per line; lists: a user and all its "
                        "items per line, the best first", choices=("rows", "lists"))
    separator: str = param("auto", "between fields: auto (from extension and first line), tab, "
                           "comma, semicolon, pipe, space (any run of blanks), or a text like ::")
    header: bool | None = param(None, "whether the first line names the columns; null: yes if "
                                "columns are asked by name, else if it looks like it")
    encoding: str = param("utf-8", "of the file, such as utf-8, latin-1, utf-16")
    user: str = param("1", "column of users: name, or position from 1")
    item: str = param("2", "column of items")
    rank: str = param("", "column of ranks, 1 the best; without rank and score the order of rows")
    score: str = param("", "column of scores, the highest the best")
    bad_rows: str = param("error", "broken rows: named and refused, or dropped and counted",
                          choices=("error", "drop"))
    rest: str = param("tie", "items that are in no list: all equal, or the rarest first",
                      choices=("tie", "rare-first"))

    def __post_init__(self) -> None:
        for wrong, key, what, hint in (
            (bool(self.rank and self.score), "rank", "both a rank and a score are given",
             "take one of the two"),
            (self.layout == "lists" and bool(self.rank or self.score), "layout",
             "lists hold a user and its items, and no other columns",
             "leave rank and score out, or set layout: rows"),
            (not self.user or not self.item, "user", "users and items need a column each",
             "its name, or its position counted from 1")):
            if wrong:
                raise InputError(what, key=f"{self.name}: {key}", hint=hint)

    def label(self) -> str:
        """`called` and how the rest is ranked; or everything that differs."""
        if not self.called:
            return super().label()
        rest = "" if self.rest == "tie" else f", rest={self.rest}"
        return f"{self.name}({self.called}{rest})"

    @property
    def gives(self) -> frozenset[str]:
        return frozenset()

    def contents(self) -> tuple[str, ...]:
        from bench.code import file_hash
        from bench.tables import find_file

        return (file_hash(find_file(self.path, "path")),) if self.path else ()

    def keyed(self) -> dict[str, object]:
        return {**super().keyed(),  # separator auto looks at the extension
                "path": Path(self.path.removesuffix(".gz")).suffix}

    def build(self, data: Dataset, ctx: Context) -> ListRecommender:
        from bench.models._given import ListRecommender

        return ListRecommender(self, data, ctx)

    def unfit(self, data: Dataset) -> str | None:
        return None if self.path else "no file is named: {given-lists: {path: lists.tsv}}"
