"""The leaderboard's numbers against the run that was made, and its files against their formats."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic_run import (
    BALL,
    EMBEDDING,
    EXPOSED,
    PROFILES,
    SyntheticRun,
    embedding,
    example,
    spec,
)

from bench import stats
from bench._board_tables import Builder
from bench._board_view import View, percent, short_labels, significant
from bench._cells import Spec, load
from bench._estimates import clean_exposure, clean_rank
from bench.context import Context
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.flags import find
from bench.leaderboard import Board, build
from bench.models.base import build as build_model
from bench.registry import Registry
from bench.report import compact, markdown, report, tex_escape
from bench.store import write_table

NONE = spec("none")
ROW = ("toy", "BPR", "none")
FGSM = embedding("fgsm", eps=0.5)
FILES = ("results.parquet", "leaderboard.md", "leaderboard.csv", "leaderboard.tex",
         "leaderboard.html")


def run_report(folder: Path, width: int = 100) -> tuple[int, str]:
    out = io.StringIO()
    status = report(folder, console=Console(file=out, width=width), draws=200)
    return status, out.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example(tmp_path_factory.mktemp("run"), ("pop", "BPR"))


@pytest.fixture(scope="module")
def printed(run: Path) -> str:
    status, text = run_report(run)
    assert status == 0
    return text


def small(path: Path, **changes: object) -> Board:
    """BPR clean, under fgsm (a fifth lost) and random profiles (targets gain 0.03)."""
    made = SyntheticRun(path, loss=lambda m, d, a: 0.2 if "fgsm" in a else 0.0,
                        lift=lambda m, d, a: 0.03, **changes)  # type: ignore[arg-type]
    made.add(spec("BPR"), NONE, NONE)
    made.add(spec("BPR"), NONE, FGSM)
    made.add(spec("BPR"), NONE, spec("random-profiles"), PROFILES)
    return build(load(made.finish()), draws=500)


# -- numbers -----------------------------------------------------------------------------------

def test_means_drop_and_interval(tmp_path: Path) -> None:
    board = small(tmp_path)
    clean, attacked = board.clean(ROW), board.entries[ROW, "fgsm(eps=0.5)"]
    assert clean is not None
    assert clean.value is not None
    assert attacked.value is not None
    assert attacked.drop is not None
    frames = [pd.read_parquet(tmp_path / "users" / f"{c.key}.parquet")
              for c in clean.ok.values()]
    assert clean.value.mean == pytest.approx(np.mean([f["ndcg@10"].mean() for f in frames]))
    assert clean.value.low < clean.value.mean < clean.value.high
    assert clean.value.basis == "users and seeds"
    assert attacked.drop.mean == pytest.approx(0.2)
    # every user loses a fifth, so the ratio of resampled means never moves
    assert attacked.drop.low == pytest.approx(0.2)
    assert attacked.drop.high == pytest.approx(0.2)


def test_lift_is_over_the_same_targets_of_the_clean_cell(tmp_path: Path) -> None:
    board = small(tmp_path)
    e = board.entries[ROW, "random-profiles"]
    clean = np.mean([EXPOSED[3], EXPOSED[7]])
    assert e.exposure["target-hr@50"].mean == pytest.approx(clean + 0.03 + 0.001)
    assert e.lifts["target-hr@50"].mean == pytest.approx(0.031)  # seeds add 0, 0.001, 0.002
    expected = stats.seed_interval([0.03, 0.031, 0.032])
    assert (e.lifts["target-hr@50"].low, e.lifts["target-hr@50"].high) == pytest.approx(expected)
    assert board.worst_exposure(ROW, "target-hr@50") is e


def test_the_rank_of_targets_and_its_change_stand_in_the_table(tmp_path: Path) -> None:
    """Where every target is in every list, the rank alone tells of an attack."""
    made = SyntheticRun(tmp_path, seeds=(0, 1))
    made.add(spec("tfidf"), NONE, NONE)
    made.add(spec("tfidf"), NONE, spec("prompt-injection"), PROFILES, facts={
        "clean_targets": {"target-rank": 5.0, "target-hr@50": 1.0}})
    for file in (tmp_path / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        if cell["attack"]["name"] == "prompt-injection":
            cell["values"].append(["target-rank", "all", 2.0 + cell["seed"]])
            file.write_text(json.dumps(cell))
    board = build(load(made.finish()))
    e = next(e for e in board.entries.values() if e.first.attack.name == "prompt-injection")
    assert e.rank is not None
    assert e.rank_move is not None
    assert (e.rank.mean, e.rank_move.mean) == (2.5, -2.5)
    assert re.search(r"target-rank \| 2\.5000 −2\.5000", markdown(Builder(board, find(board))))


def test_clean_exposure_is_what_the_evaluator_calls_target_hr(tmp_path: Path) -> None:
    """The table of the clean cell must give the very number of `target-hr`, or a model that the
    poison cannot reach would seem to be lifted."""
    data = Registry().make("datasets", {"name": "blocks"}).load()  # type: ignore[attr-defined]
    plugin = Registry().make("models", {"name": "random"})
    model = build_model(plugin, data, Context(0))  # type: ignore[arg-type]
    targets = np.array([5, 17, 40])
    found = evaluate(model, data, ["ndcg@10", "target-hr@10", "target-rank"], targets=targets)
    means = {m: v for m, g, v in found.values if g == "all"}
    expected = means["target-hr@10"]
    made = SyntheticRun(tmp_path, seeds=(0,))
    made.add(spec("random"), NONE, NONE)
    loaded = load(made.finish())
    write_table(tmp_path / "items" / f"{loaded.cells[0].key}.parquet", found.items)
    ids = [data.item_ids[t] for t in targets]
    assert clean_exposure(loaded, loaded.cells[0], ids, "10") == expected
    assert clean_rank(loaded, loaded.cells[0], ids) == means["target-rank"]
    assert math.isnan(clean_exposure(loaded, loaded.cells[0], ids, "7"))
    assert math.isnan(clean_exposure(loaded, loaded.cells[0], ["nobody"], "10"))


def test_no_drop_where_clean_is_zero(tmp_path: Path) -> None:
    board = small(tmp_path, base={"BPR": 0.0}, seed_spread=0.0, groups=False)
    for e in board.entries.values():
        if e.value is not None and e.drop is not None and e.value.mean < 1e-6:
            assert math.isnan(e.drop.mean)
            assert math.isnan(e.drop.low)
    zero = SyntheticRun(tmp_path / "zero", loss=lambda m, d, a: 1.0)
    for attack in (NONE, FGSM):
        zero.add(spec("BPR"), NONE, attack)
    e = build(load(zero.finish()), draws=50).entries[ROW, "fgsm(eps=0.5)"]
    assert e.drop is not None
    assert math.isnan(e.drop.mean)


def test_worst_counts_attacks_that_aim_at_accuracy_only(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path, loss=lambda m, d, a: {"f": 0.2, "n": 0.1, "r": 0.9}.get(
        a[0], 0.0) if a != "none" else 0.0)
    for attack in (NONE, FGSM, embedding("noise", eps=0.5)):
        made.add(spec("BPR"), NONE, attack)
    made.add(spec("BPR"), NONE, spec("random-profiles"), PROFILES)
    worst = build(load(made.finish()), draws=50).worst(ROW)
    assert worst is not None
    assert worst.attack == "fgsm(eps=0.5)"


def test_a_worst_over_several_budgets_says_so(tmp_path: Path) -> None:
    """The one who may do more may be the worst for that alone; equal budgets need no remark."""
    for eps, said in ((0.5, False), (1.0, True)):
        made = SyntheticRun(tmp_path / str(eps))
        made.add(spec("BPR"), NONE, NONE)
        for attack, size in ((embedding("fgsm", eps=0.5), 0.5), (embedding("pgd", eps=eps), eps)):
            made.add(spec("BPR"), NONE, attack, {**EMBEDDING, "comparable": f"l2 ball of {size}"})
        board = build(load(made.finish()), draws=50)
        table = {t.kind: t for t in Builder(board, find(board)).tables()}["accuracy"]
        notes = [n for n in table.notes if n.startswith("worst is over attacks of different")]
        assert len(notes) == said
        assert all("l2 ball of 0.5: fgsm; l2 ball of 1.0: pgd" in n for n in notes)


def test_attacks_that_see_test_positives_are_a_worst_of_their_own(tmp_path: Path) -> None:
    """Whether the cell says so (`oracle`) or, as in older results, its parameters alone do."""
    blind = [embedding(name, eps=0.5, source="train") for name in ("fgsm", "pgd")]
    seeing = [embedding("fgsm", eps=0.5, source="test"), embedding("torch", eps=0.5, item="test")]
    for old in (True, False):
        made = SyntheticRun(tmp_path / str(old), loss=lambda m, d, a: {
            "f": 0.1, "p": 0.2}.get(a[0], 0.5) + 0.2 * ("test" in a) if a != "none" else 0.0)
        for attack in (NONE, *blind, *seeing):
            threat = {**EMBEDDING, "comparable": "l2 ball of 0.5"}
            made.add(spec("BPR"), NONE, attack, threat if old else
                     {**threat, "oracle": attack in seeing})
        board = build(load(made.finish()), draws=50)
        worst, oracle = board.worst(ROW), board.worst(ROW, oracle=True)
        assert worst is not None
        assert oracle is not None
        assert (worst.attack, oracle.attack) == (blind[1]["label"], seeing[1]["label"])
        cases = {case.family: set(case.attacks) for case in board.worst_cases[ROW]}
        assert cases == {"test-param: l2 ball of 0.5": {a["label"] for a in blind},
                         "test-param: l2 ball of 0.5, test positives known":
                         {a["label"] for a in seeing}}
        tables = {t.kind: t for t in Builder(board, find(board)).tables()}
        assert tables["accuracy"].headers[3:5] == ["worst", "worst, test positives known"]
        assert [v.text for v in tables["accuracy"].rows[0][3:5]] == [
            f"{e.value.mean:.4f}" for e in (worst, oracle) if e.value is not None]
        assert [row[3].text for row in tables["threats"].rows] == [
            "white"] * 2 + ["white, test positives"] * 2


def test_no_column_for_test_positives_where_nothing_sees_them(run: Path) -> None:
    board = build(load(run), draws=20)
    headers = Builder(board, []).accuracy("toy").headers
    assert not any("test positives" in h for h in headers)


def test_tests_are_paired_and_adjusted_over_the_family(tmp_path: Path) -> None:
    board = small(tmp_path)
    found = board.tests()
    assert len(found) == 2
    assert [t.holm for t in found] == pytest.approx(stats.holm([t.paired.p for t in found]))
    attacked = board.entries[ROW, "fgsm(eps=0.5)"].against_clean
    assert attacked is not None
    assert attacked.paired.test == "paired t"
    assert attacked.paired.users == 120
    assert attacked.paired.difference < 0
    assert attacked.low < attacked.paired.difference < attacked.high
    assert attacked.holm < 1e-6
    untouched = board.entries[ROW, "random-profiles"].against_clean
    assert untouched is not None
    assert untouched.holm == 1.0


def test_a_defense_is_compared_with_none_on_the_same_attack(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path, loss=lambda m, d, a: (0.4 if d == "none" else 0.1)
                        if a != "none" else 0.0)
    for defense in (NONE, spec("robust")):
        for attack in (NONE, FGSM):
            made.add(spec("BPR"), defense, attack)
    board = build(load(made.finish()), draws=200)
    e = board.entries[("toy", "BPR", "robust"), "fgsm(eps=0.5)"]
    assert e.against_undefended is not None
    assert e.against_undefended.paired.difference > 0
    assert e.against_undefended.low > 0
    clean = board.clean(("toy", "BPR", "robust"))
    assert clean is not None
    assert clean.against_clean is None
    assert clean.against_undefended is not None
    assert board.entries[ROW, "fgsm(eps=0.5)"].against_undefended is None


def test_gap_names_its_groups(tmp_path: Path) -> None:
    board = small(tmp_path)
    clean = board.clean(ROW)
    assert clean is not None
    gap = clean.gaps["gender"]
    assert (gap.best, gap.worst) == ("M", "F")
    frames = [pd.read_parquet(tmp_path / "users" / f"{c.key}.parquet").groupby(
        "group:gender")["ndcg@10"].mean() for c in clean.ok.values()]
    assert gap.gap.mean == pytest.approx(np.mean([f["M"] - f["F"] for f in frames]))
    assert gap.gap.low < gap.gap.mean < gap.gap.high
    assert gap.worst_value.mean == pytest.approx(np.mean([f["F"] for f in frames]))


def test_small_groups_enter_no_gap(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path)
    made.add(spec("BPR"), NONE, NONE, facts={"small_groups": {"gender=F": 3}})
    clean = build(load(made.finish()), draws=20).clean(ROW)
    assert clean is not None
    assert clean.gaps == {}


def test_failed_seeds_leave_the_rest_comparable(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path, loss=lambda m, d, a: 0.5 if "fgsm" in a else 0.0)
    made.add(spec("BPR"), NONE, NONE)
    made.add(spec("BPR"), NONE, FGSM, bad_seeds={2: "out of memory"})
    e = build(load(made.finish()), draws=200).entries[ROW, "fgsm(eps=0.5)"]
    assert (e.status, e.reason, len(e.ok)) == ("ok", "out of memory", 2)
    assert e.drop is not None
    assert e.drop.mean == pytest.approx(0.5)
    assert e.drop.low == pytest.approx(0.5)  # the clean side is held to the same two seeds


def test_without_user_tables_the_seeds_give_the_interval(tmp_path: Path) -> None:
    board = small(tmp_path)
    for path in (tmp_path / "users").iterdir():
        path.unlink()
    clean = build(load(tmp_path), draws=20).clean(ROW)
    assert clean is not None
    assert clean.value is not None
    assert clean.value.basis == "seeds"
    assert (clean.value.low, clean.value.high) == pytest.approx(
        stats.seed_interval(clean.seed_values("ndcg@10")))
    assert not build(load(tmp_path), draws=20).tests()
    assert board.tests()


def test_rows_and_columns_follow_the_plan(run: Path) -> None:
    board = build(load(run), draws=20)
    assert [r[1:] for r in board.rows("toy")][:2] == [("pop", "none"),
                                                      ("pop", "adversarial-training(eps=0.5)")]
    (run / "plan.json").rename(run / "elsewhere.json")
    try:  # without a plan: none first, then by name with numbers as numbers
        assert build(load(run), draws=20).attacks("toy")[0] == "bandwagon-profiles(budget=0.01)"
    finally:
        (run / "elsewhere.json").rename(run / "plan.json")


# -- files -------------------------------------------------------------------------------------

def test_long_table_has_values_and_what_is_derived(run: Path, printed: str) -> None:
    long = pd.read_parquet(run / "results.parquet")
    assert list(long.columns) == ["dataset", "model", "defense", "attack", "seed", "status",
                                  "metric", "group", "value"]
    cells = list((run / "cells").iterdir())
    assert long.groupby(["model", "defense", "attack", "seed"]).ngroups == len(cells)
    mine = long[(long.model == "BPR(epochs=50)") & (long.defense == "none")
                & (long.attack == "fgsm(eps=0.5)") & (long.seed == 1)]
    value = mine.set_index(["metric", "group"])["value"]
    assert value["ndcg@10-drop", "all"] == pytest.approx(0.12)
    assert value["ndcg@10-gap:gender", "all"] == pytest.approx(
        value["ndcg@10", "gender=M"] - value["ndcg@10", "gender=F"])
    assert value["ndcg@10-worst:gender", "all"] == value["ndcg@10", "gender=F"]
    pushed = long[long.metric == "target-hr@50-lift"]
    assert set(pushed.attack) == {"random-profiles(budget=0.01)",
                                  "bandwagon-profiles(budget=0.01)"}
    assert (long[long.status == "skipped"].value.isna()).all()


def test_reports_are_byte_identical(run: Path, printed: str) -> None:
    before = {name: (run / name).read_bytes() for name in FILES}
    run_report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_csv_is_tidy_and_exact(run: Path, printed: str) -> None:
    rows = list(csv.DictReader(io.StringIO((run / "leaderboard.csv").read_text())))
    board = build(load(run), draws=200)
    row = next(r for r in rows if r["model"] == "BPR(epochs=50)" and r["defense"] == "none"
               and r["attack"] == "pgd(eps=0.5, steps=10)" and r["metric"] == "ndcg@10"
               and not r["versus"] and r["group"] == "all")
    value = board.entries[("toy", "BPR(epochs=50)", "none"), "pgd(eps=0.5, steps=10)"].value
    assert value is not None
    assert (float(row["mean"]), float(row["low"])) == (value.mean, value.low)
    skipped = [r for r in rows if r["status"] == "skipped"]
    assert skipped
    assert all(r["reason"].startswith("pop exposes") and not r["mean"] for r in skipped)
    assert any("static-only" in r["flags"] for r in rows)
    coverage = next(r for r in rows if r["metric"] == "coverage@10")
    assert coverage["basis"] == "seeds"
    assert any(r["versus"] == "no defense" and r["p_holm"] for r in rows)


def test_terminal_fits_100_columns_and_says_everything(printed: str) -> None:
    assert max(len(line.rstrip()) for line in printed.splitlines()[:-1]) <= 100
    for text in ("ndcg@10 and its worst under attack", "under attacks on the trained model",
                 "after poisoned training", "target-hr@50", "by group of users", "privacy", "cost",
                 "Threat model",
                 "skipped: pop with none", ": the model exposes no embeddings and no gradients",
                 "different budgets", "by pgd", "[j] only attacks that do not know"):
        assert text in " ".join(printed.split()).replace("Different", "different"), text


def test_rows_in_which_nothing_ran_stand_below_the_table(printed: str) -> None:
    """Every cell of pop with dp-sgd is skipped: one line with the reason, not a row of dashes."""
    text = " ".join(printed.split())
    assert ("skipped whole: pop with adversarial-training; pop with dp-sgd: the model exposes no "
            "embeddings and no gradients") in text


def test_attacks_on_model_and_on_data_stand_apart(tmp_path: Path) -> None:
    """Rows that no attack of a table can act on are one line below it, whatever their models."""
    made = SyntheticRun(tmp_path)
    for name in ("pop", "EASE", "BPR"):
        made.add(spec(name), NONE, NONE)
        made.add(spec(name), NONE, spec("random-profiles"), PROFILES)
        given = {} if name == "BPR" else {"status": "skipped",
                                          "reason": f"{name} exposes no embeddings"}
        made.add(spec(name), NONE, FGSM, **given)  # type: ignore[arg-type]
    made.finish()
    board = build(load(tmp_path), 50)
    tables = {t.title: t for t in Builder(board, find(board)).tables()}
    evasion = tables["toy: ndcg@10 under attacks on the trained model"]
    poisoned = tables["toy: ndcg@10 after poisoned training"]
    assert evasion.headers == ["model", "defense", "clean", "fgsm"]
    assert [row[0].text for row in evasion.rows] == ["BPR"]
    assert evasion.notes == ["skipped: pop, EASE with none: the model exposes no embeddings"]
    assert poisoned.headers == ["model", "defense", "clean", "random-profiles"]
    assert [row[0].text for row in poisoned.rows] == ["pop", "EASE", "BPR"]
    assert poisoned.notes == []


def test_a_pipe_gets_100_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run, draws=50) == 0
    widest = max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()[:-1])
    assert 80 < widest <= 100


def test_markdown_tables_are_rectangular(run: Path, printed: str) -> None:
    text = (run / "leaderboard.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert len(tables) == 10
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "Paired tests" in text


def test_latex_is_balanced_and_escaped(run: Path, printed: str) -> None:
    text = (run / "leaderboard.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 0
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\midrule")
    plain = re.sub(r"\\[{}%&#_$]", "", text)
    assert plain.count("{") == plain.count("}")
    for block in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, flags=re.S):
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in block.strip().splitlines()}
        assert len(counts) == 1
    assert all(ord(ch) < 128 for ch in text), {ch for ch in text if ord(ch) > 127}
    assert tex_escape("a_b & 5% {x}^2 \\") == (
        r"a\_b \& 5\% \{x\}\textasciicircum{}2 \textbackslash{}")


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order; collects attributes and text."""

    VOID = {"meta", "link", "br", "line", "circle", "rect", "polygon", "path"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_one_well_formed_accessible_file(run: Path, printed: str) -> None:
    text = (run / "leaderboard.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    for tag, attrs in page.tags:
        for name in ("src", "href", "data", "action"):
            target = attrs.get(name) or ""
            assert not re.match(r"(https?:)?//", target), (tag, target)
        if tag == "svg" and "aria-hidden" not in attrs:
            assert attrs["role"] == "img"
            assert attrs["aria-label"]
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
    assert "url(" not in text
    assert "@import" not in text
    assert sum(tag == "svg" and "role" in attrs for tag, attrs in page.tags) == 3
    words = " ".join(page.words)
    assert "name: toy-run" in words
    assert "bench run grid.yaml" in words
    assert "nan" not in re.findall(r"(?:x\d?|y\d?|cx|cy|points|width)=\"([^\"]*)\"", text)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>|*_`"
    made = SyntheticRun(tmp_path)
    made.add(spec(bad), NONE, NONE)
    made.add(spec("[bold red]x"), NONE, NONE)
    made.add(spec(bad), NONE, FGSM, status="failed", reason="<img src=x> | [/red] 5% & \\x{")
    made.finish(f"name: '{bad}'\n")
    status, printed = run_report(tmp_path, width=160)
    assert status == 1
    assert "[bold red]x" in printed
    page = (tmp_path / "leaderboard.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<script>" not in (tmp_path / "leaderboard.md").read_text().replace("\\<", "")
    assert r"5\% \& \textbackslash{}x\{" in (tmp_path / "leaderboard.tex").read_text()


def test_failed_cells_stand_in_the_table(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path)
    made.add(spec("BPR"), NONE, NONE)
    made.add(spec("BPR"), NONE, FGSM, status="failed", reason="the loss became nan")
    made.finish()
    status, printed = run_report(tmp_path)
    assert status == 1
    assert re.search(r"FAILED\[[a-z],1\]", printed)
    assert "[1] failed: the loss became nan" in printed
    assert "**FAILED**" in (tmp_path / "leaderboard.md").read_text()


def test_a_run_where_nothing_worked_still_reports(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path)
    made.add(spec("BPR"), NONE, NONE, status="skipped", reason="needs a knowledge graph")
    made.finish()
    status, printed = run_report(tmp_path)
    assert status == 0
    assert "needs a knowledge graph" in printed
    assert all((tmp_path / name).is_file() for name in FILES)


def test_an_interrupted_run_says_what_is_missing(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path, seeds=(0, 1), asked=(0, 1, 2))
    made.add(spec("BPR"), NONE, NONE)
    made.finish()
    assert "1 not run yet" in run_report(tmp_path)[1]


# -- bad input ---------------------------------------------------------------------------------

def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no cells"):
        report(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "key": "x"}',
                                  "\xff"])
def test_broken_cells_are_named(tmp_path: Path, text: str) -> None:
    small(tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=path.name):
        report(tmp_path)


@pytest.mark.parametrize(("part", "value", "words"), [
    ("model", {"name": "BPR", "params": {}, "label": 7}, "label of model"),
    ("facts", {"small_groups": ["F"]}, "small_groups"), ("facts", {"tie_share": "x"}, "tie_share"),
    ("privacy", {"epsilon": "8"}, "epsilon")])
def test_cells_of_other_types_are_named(tmp_path: Path, part: str, value: object,
                                        words: str) -> None:
    small(tmp_path)
    path = sorted((tmp_path / "cells").glob("*.json"))[0]
    cell = json.loads(path.read_text())
    path.write_text(json.dumps({**cell, part: value}))
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


def test_without_attacks_there_is_no_threat_model(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path)
    made.add(spec("BPR"), NONE, NONE)
    made.finish()
    assert "Threat model" not in run_report(tmp_path)[1]


def test_broken_tables_and_facts_are_named(tmp_path: Path) -> None:
    small(tmp_path)
    path = next((tmp_path / "users").iterdir())
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=path.name):
        report(tmp_path)
    path.unlink()
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"environment\.json"):
        report(tmp_path)
    (tmp_path / "environment.json").unlink()
    (tmp_path / "grid.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"grid\.yaml"):
        report(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    small(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            report(tmp_path)
    finally:
        tmp_path.chmod(0o700)


# -- small parts -------------------------------------------------------------------------------

def test_short_labels_keep_what_tells_namesakes_apart() -> None:
    made = {label: Spec(name, params, label) for label, name, params in (
        ("a", "pgd", {**BALL, "steps": 10}), ("b", "pgd", {**BALL, "steps": 50}),
        ("c", "fgsm", BALL))}
    assert short_labels(made) == {"a": "pgd(steps=10)", "b": "pgd(steps=50)", "c": "fgsm"}


def test_numbers_as_they_are_shown() -> None:
    assert percent(-0.1234) == "−12.3%"
    assert percent(-0.0001) == "0.0%"
    assert percent(math.nan) == "–"
    assert [significant(v) for v in (0, 12.345, 45678.9, 3e-5, 1.9e6)] == [
        "0", "12.3", "45,679", "3.0e-05", "1,900,000"]
    assert compact(View("0.3", "[0.2, 0.4]", half="±0.1000", stars="*", note=2)) == (
        "0.3 ±0.1000*[2]")


def test_two_datasets_stand_apart(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path)
    for dataset in ("toy", "other"):
        for attack in (NONE, FGSM):
            made.add(spec("BPR"), NONE, attack, dataset=spec(dataset))
    board = build(load(made.finish()), draws=50)
    text = markdown(Builder(board, find(board)))
    assert "## toy: ndcg@10 under attack" in text
    assert "## other: ndcg@10 under attack" in text
    assert len(board.tests()) == 2


def test_a_grid_of_500_cells_reports_in_seconds(tmp_path: Path) -> None:
    made = SyntheticRun(tmp_path, users=943, seeds=(0,))
    for m in range(25):
        for attack in [NONE, *(embedding("pgd", eps=e / 10) for e in range(1, 20))]:
            made.add(spec("BPR", dim=m), NONE, attack)
    made.finish()
    assert len(json.loads((tmp_path / "plan.json").read_text())["cells"]) == 500
    start = time.perf_counter()
    assert report(tmp_path, console=Console(file=io.StringIO(), width=100)) == 0
    assert time.perf_counter() - start < 30
