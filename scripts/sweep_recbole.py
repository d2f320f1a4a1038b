"""Trains every RecBole model on ml-100k and writes what works to results/recbole-models.md.

    python scripts/sweep_recbole.py                 what is missing in the folder of rows
    python scripts/sweep_recbole.py --only BPR,NAIS --fresh
    python scripts/sweep_recbole.py --facts         writes bench/models/recbole_models.json again

One process per model, ended after --timeout seconds; rows are kept in --rows, so an interrupted
sweep goes on where it was. Models that are too heavy for a small machine learn on fewer users
and are scored for fewer; their row says so.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FACTS = ROOT / "bench" / "models" / "recbole_models.json"

USERS = {"MultiDAE", "MultiVAE", "MacridVAE", "CDAE", "ENMF", "RaCT", "RecVAE", "DiffRec",
         "LDiffRec"}
CLOSED = {"Pop", "Random", "ItemKNN", "AsymKNN", "EASE", "SLIMElastic", "ADMMSLIM", "NCEPLRec"}
STAGED = {"S3Rec", "RaCT", "KD_DAGFM"}
ATTRIBUTES = {"GRU4RecF", "SASRecF", "FDSA", "S3Rec"}
KNOWLEDGE = {"CKE": "joint", "CFKG": "joint", "KTUP": "alternating", "KGAT": "after",
             "MKR": "after", "KSR": "vectors", "GRU4RecKG": "vectors"}
INPUT = {"DIN": "sequences-points", "DIEN": "sequences-points", "TransRec": "sequences-pairs",
         "SINE": "sequences-pairs", "FPMC": "sequences-pairs"}
# Their output at a place depends on what is before it alone, and their loss asks for one place.
WINDOWS = {"SASRec", "SASRecF", "FDSA", "GRU4Rec", "GRU4RecF", "GRU4RecKG"}
PACKAGES = {"NCL": {"faiss": "faiss-cpu"}, "XGBoost": {"xgboost": "xgboost-cpu"},
            "LightGBM": {"lightgbm": "lightgbm"}}
NOTES = {
    "Pop": "Every train row counts; RecBole counts an item once per batch.",
    "FwFM": "The weights of field pairs are learned, as in the paper; RecBole forgets them.",
    "NCL": "At most a tenth as many prototypes as users or items.",
    "FEARec": "Without its contrastive terms, which RecBole leaves off by default.",
    "KGIN": "Scores with the whole graph; RecBole drops edges in evaluation too.",
    "MCCLK": "Scores with the whole graph; RecBole drops edges in evaluation too.",
    "KTUP": "Scores without Gumbel noise, which RecBole draws in evaluation too.",
    "KSR": "Its entity vectors are learned by TransE from the dataset's own graph.",
    "GRU4RecKG": "Its entity vectors are learned by TransE from the dataset's own graph.",
    "S3Rec": "Pre-training, then fine-tuning; defenses act in the second alone.",
    "RaCT": "Actor, critic, then both; defenses act in the last stage alone.",
    "KD_DAGFM": "Teacher, distillation, fine-tuning; defenses act in the last stage alone.",
    "SimpleX": "Of a long history the newest items are read; RecBole reads random ones.",
    "BERT4Rec": "Each row, not each batch, draws whether its last item alone is hidden.",
    "XGBoost": "Attributes with several values are left out.",
    "LightGBM": "Attributes with several values are left out."}
TITLES = {
    "XGBoost": "Gradient-boosted trees on identities and attributes.",
    "LightGBM": "Gradient-boosted trees on identities and attributes.",
    "FEARec": "Self-attention over frequencies of the history.",
    "BERT4Rec": "A bidirectional transformer that fills in hidden items.",
    "ADMMSLIM": "Sparse linear item-item weights, by the alternating direction method.",
    "NCEPLRec": "Projected linear regression on noise-contrastive item vectors.",
    "LightSANs": "Self-attention of low rank over the history.",
    "SINE": "Several sparse interests of a user, by attention over prototypes.",
    "Random": "A random score per item, the same for everybody.",
    "LR": "Logistic regression on identities and attributes."}
# A user's loss reads this user's rows and parameters, nothing else: no neighbours in a graph, no
# statistics of the batch (BatchNorm, in-batch negatives), no history of an item, no state carried
# from one batch to the next that depends on the data. The gradient of two users is a weighted sum
# of theirs alone (so not CDAE, Caser, ConvNCF and SHAN, whose penalties reach every user's row).
SEPARABLE = {
    "BPR": "pairs", "NeuMF": "points, no BatchNorm",
    "MultiDAE": "own history", "MultiVAE": "own history", "MacridVAE": "own history",
    "FISM": "own history", "NAIS": "own history",
    "LR": "points", "FM": "points", "FFM": "points", "FwFM": "points", "AFM": "points",
    "DeepFM": "points, no BatchNorm", "WideDeep": "points, no BatchNorm",
    "FNN": "points, no BatchNorm", "PNN": "points, no BatchNorm",
    "SASRec": "own history, LayerNorm", "GRU4Rec": "own history", "NARM": "own history",
    "STAMP": "own history", "HGN": "own history", "FPMC": "own history",
    "NPE": "own history", "HRM": "own history", "FOSSIL": "own history",
    "TransRec": "own history", "LightSANs": "own history, LayerNorm",
    "NextItNet": "own history, LayerNorm", "SASRecF": "own history and item attributes",
    "GRU4RecF": "own history and item attributes", "FDSA": "own history and item attributes"}


# -- facts ----------------------------------------------------------------------------------------

def scan() -> dict[str, dict[str, Any]]:
    """Names, modules, documentation and declared input of RecBole's models, from its source."""
    import importlib.util

    spec = importlib.util.find_spec("recbole")
    assert spec is not None
    assert spec.origin is not None
    base = Path(spec.origin).parent / "model"
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(base.glob("*_recommender")):
        family = folder.name.split("_")[0].replace("exlib", "external")
        for path in sorted(folder.glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name.lower() == path.stem:
                    found[node.name] = _entry(node, tree, family, f"recbole.model.{folder.name}."
                                              f"{path.stem}")
    return found


def _entry(node: ast.ClassDef, tree: ast.Module, family: str, module: str) -> dict[str, Any]:
    name = node.name
    text = " ".join((ast.get_docstring(node) or "").split())
    title = re.split(r"(?<=[a-z)\]])\.\s", text)[0].rstrip(".") + "." if text else ""
    head = " ".join((ast.get_docstring(tree) or "").split())
    paper = re.search(r"References?:\s*(.*?)(?:Reference code|References? code|\Z)", head)
    declared = next((n.value.attr for n in node.body if isinstance(n, ast.Assign)
                     and getattr(n.targets[0], "id", "") == "input_type"), "POINTWISE")
    kind = INPUT.get(name) or ("users" if name in USERS else "sequences"
                               if family == "sequential" else
                               "pairs" if declared == "PAIRWISE" else "points")
    needs = (["times"] if family == "sequential" else []) + (
        ["knowledge"] if family == "knowledge" or KNOWLEDGE.get(name) == "vectors" else []) + (
        ["item attributes"] if name in ATTRIBUTES else [])
    training = "closed" if name in CLOSED else "staged" if name in STAGED else \
        "trees" if family == "external" else "loop"
    return {"family": family, "module": module, "title": TITLES.get(name, title) or f"{name}.",
            "paper": paper[1].strip() if paper else "", "note": NOTES.get(name, ""),
            "input": "nothing but the data as a whole" if training == "closed" else kind,
            "training": training, "knowledge": KNOWLEDGE.get(name),
            "attributes": family in ("context", "external") or name in ATTRIBUTES | {"DIN", "DIEN"},
            "windows": name in WINDOWS, "packages": PACKAGES.get(name, {}), "needs": needs,
            "gives": [], "tables": []}


class Everything(list):  # type: ignore[type-arg]
    """A list that contains everything."""

    def __contains__(self, item: object) -> bool:
        return True


def write_facts() -> None:
    """Build every model on a tiny dataset and note what it really gives."""
    from bench.models import recbole

    known = scan()
    FACTS.write_text(json.dumps(known, indent=1), encoding="utf-8")
    recbole.facts.cache_clear()
    for name, entry in known.items():
        entry["tables"] = Everything()
        recbole.facts()[name].update(entry)
        try:
            tables = _live_tables(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
            tables = []
        entry["tables"] = tables
        entry["gives"] = sorted(
            ({"gradients"} if entry["training"] == "loop" else set())
            | ({"embeddings"} if tables else set())
            | ({"histories"} if entry["family"] == "sequential" else set())
            | ({"user-separable"} if name in SEPARABLE else set()))
    FACTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(known)} models in {FACTS}")


def _live_tables(name: str) -> list[str]:
    """Tables of users or items that the loss of some batch depends on."""
    from bench.context import Context
    from bench.models.base import TorchRecommender, build
    from bench.models.recbole import member
    from bench.perturb import gradient

    plugin = member(name)(**member(name).test_params())
    model = build(plugin, tiny(), Context(0))
    if not isinstance(model, TorchRecommender):
        return []
    if not model.tables():
        return []
    with model.evaluating():
        batches = list(model.batches(1, 64))[:4]
        found, _ = gradient(model, batches, list(model.tables()))
    return sorted(k for k, g in found.items() if float(g.abs().max()) > 0)


def tiny() -> Any:
    from bench.datasets.blocks import Blocks

    return with_knowledge(Blocks(users=50, items=40, length=10).load())


def with_knowledge(data: Any) -> Any:
    """The dataset with a knowledge graph of its categorical item attributes."""
    from bench.data import KnowledgeGraph

    triples = [(item, name, f"{name}={value}") for name, column in data.item_attributes.items()
               if column.dtype == object for item, values in zip(data.item_ids, column)
               for value in (values if isinstance(values, tuple) else (values,)) if value]
    heads, relations, tails = zip(*triples)
    return data.replace(knowledge=KnowledgeGraph(heads, relations, tails,
                                                 {i: i for i in data.item_ids}))


# -- the sweep ------------------------------------------------------------------------------------

# Users that a model too heavy for two cores learns from and is scored for (default: all 943).
HEAVY: dict[str, int] = {
    **dict.fromkeys(("DIN", "DIEN"), 10), "Caser": 20, "MCCLK": 50, "RippleNet": 50,
    **dict.fromkeys(("NAIS", "ConvNCF", "BERT4Rec", "S3Rec", "FEARec", "GCSAN", "SRGNN",
                     "NextItNet", "RepeatNet", "SASRecCPR", "GRU4RecCPR", "LightSANs", "CORE"), 40),
    **dict.fromkeys(("SINE", "KSR", "NARM", "HGN", "xDeepFM", "AutoInt", "FiGNN", "EulerNet",
                     "DCNV2", "FFM", "NNCF", "AFM", "STAMP", "SHAN", "HRM", "NPE"), 100)}
EPOCHS = 1
# Shorter histories and stages, where RecBole's defaults mean hours.
SETTINGS: dict[str, dict[str, Any]] = {"S3Rec": {"pretrain_epochs": 1},
                                       "RaCT": {"pretrain_epochs": 1}}


@cache
def films() -> Any:
    from bench.datasets.ml_100k import ML100K

    return ML100K().load()


def one(name: str) -> dict[str, Any]:
    """Train and score one model; the facts of its row."""
    import torch

    from bench.context import Context
    from bench.defenses.none import NoDefense
    from bench.evaluate import evaluate
    from bench.models.base import build
    from bench.models.recbole import member

    torch.set_num_threads(1)
    data = films()
    if name in HEAVY:
        data = first_users(data, HEAVY[name])
    given = SETTINGS.get(name, {})
    cls = member(name)
    if "epochs" in cls.__dataclass_fields__:
        given = {"epochs": EPOCHS, "patience": 0, **given}
    plugin = cls(**given)
    reason = plugin.unfit(data)
    if reason:
        return {"status": reason}
    start = time.perf_counter()
    model = build(plugin, data, Context(0))
    built = time.perf_counter() - start
    fit = model.fit(NoDefense(), lambda event: None)
    trained = time.perf_counter() - start - built
    found = evaluate(model, data, ("ndcg@10",))
    ndcg = next(v for metric, group, v in found.values if (metric, group) == ("ndcg@10", "all"))
    return {"status": "works", "epochs": fit.epochs, "users": data.n_users, "given": given,
            "build": built, "fit": trained, "score": time.perf_counter() - start - built - trained,
            "ndcg": float(ndcg), "speed": fit.samples_per_second}


def first_users(data: Any, n: int) -> Any:
    """The dataset with its first n users alone; items stay."""
    parts = {p: getattr(data, p)[getattr(data, p).users < n] for p in ("train", "valid", "test")}
    return data.replace(user_ids=data.user_ids[:n], **parts, user_attributes={
        k: v[:n] for k, v in data.user_attributes.items()})


def child(name: str, path: Path) -> None:
    """One model in this process, which ends with it; its row in `path`."""
    try:
        row = one(name)
    except Exception as error:
        row = {"status": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    path.write_text(json.dumps(row), encoding="utf-8")


def sweep(names: list[str], rows: Path, timeout: float, workers: int) -> None:
    """Run each in a process of its own, forked from here so that nothing is imported twice."""
    import multiprocessing

    import bench.evaluate
    import bench.models._recbole_trainers
    import bench.training  # noqa: F401

    films()
    fork = multiprocessing.get_context("fork")

    def run(name: str) -> None:
        path, start = rows / f"{name}.json", time.perf_counter()
        path.unlink(missing_ok=True)
        process = fork.Process(target=child, args=(name, path))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            path.write_text(json.dumps({"status": f"not done after {timeout:.0f} s"}))
        elif not path.is_file():
            path.write_text(json.dumps({"status": f"ended with status {process.exitcode}"}))
        row = json.loads(path.read_text(encoding="utf-8"))
        print(f"{name:12} {time.perf_counter() - start:6.1f} s  {row['status']}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, names))


def report(rows: Path, path: Path) -> None:
    """The table of everything that has a row."""
    from bench.models.recbole import VERSION, facts

    lines, works = [], 0
    for name in sorted(facts(), key=lambda n: (facts()[n]["family"], n.lower())):
        file = rows / f"{name}.json"
        row = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {
            "status": "not run"}
        works += row["status"] == "works"
        known = facts()[name]
        lines.append("| " + " | ".join([
            name, known["family"], known["input"], ", ".join(known["gives"]) or "–",
            row["status"], *_numbers(row),
            f"`python scripts/sweep_recbole.py --only {name} --fresh`"]) + " |")
    head = f"""# RecBole's models here

{works} of the {len(facts())} models of RecBole {VERSION} train and score on ml-100k. Each row is a
process of its own on one core of a small machine, one epoch: the numbers show that a model
runs and roughly at what speed, not how good it becomes. Pop and Random say where the floor is.
Other work ran on the machine during some of the rows, so seconds and samples/s compare between
rows only to within a factor of two or three; nothing else depends on it.
Fewer than 943 users means that the model is too heavy for the time given: it learned from the
first so many users and was scored for them. Settings that differ from the defaults stand beside
the epochs. Seconds are those of building and training, then of scoring all users; samples/s are
batch rows per second of training: interactions with their negatives, users for autoencoders,
stretches of up to 50 items for SASRec, SASRecF, FDSA and the GRU4Rec of rows "windows".

Made by `python scripts/sweep_recbole.py`; what a model gives is checked by `tests/test_recbole.py`.

| model | family | learns from | gives | works | users | epochs | train s | score s | ndcg@10 \
| samples/s | made by |
|---|---|---|---|---|---|---|---|---|---|---|---|
""".replace("\\\n", "")
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{works} of {len(facts())} work: {path}")


def _numbers(row: dict[str, Any]) -> list[str]:
    if row["status"] != "works":
        return ["–"] * 6
    extra = {k: v for k, v in row["given"].items() if k not in ("epochs", "patience")}
    epochs = str(row["epochs"]) + "".join(f", {k}={v}" for k, v in extra.items())
    speed = f"{row['speed']:.0f}" if row["speed"] == row["speed"] else "–"
    return [str(row["users"]), epochs, f"{row['build'] + row['fit']:.1f}", f"{row['score']:.1f}",
            f"{row['ndcg']:.4f}", speed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--facts", action="store_true", help="write recbole_models.json and end")
    parser.add_argument("--one", metavar="NAME", help="train one model here and print its row")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="run again what has a row")
    parser.add_argument("--failed", action="store_true", help="run again what did not work")
    parser.add_argument("--timeout", type=float, default=120, help="seconds per model")
    parser.add_argument("--workers", type=int, default=1, help="models at once")
    parser.add_argument("--rows", type=Path, default=ROOT / ".bench-cache" / "recbole-models",
                        help="folder of finished rows")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "recbole-models.md")
    args = parser.parse_args()
    if args.facts:
        write_facts()
        return
    if args.one:
        print(json.dumps(one(args.one)))
        return
    from bench.models.recbole import members

    args.rows.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    names = [n for n in members() if not args.only or n in args.only.split(",")]

    def wanted(name: str) -> bool:
        file = args.rows / f"{name}.json"
        if args.fresh or not file.is_file():
            return True
        return args.failed and json.loads(file.read_text(encoding="utf-8"))["status"] != "works"

    sweep([n for n in names if wanted(n)], args.rows, args.timeout, args.workers)
    report(args.rows, args.out)


if __name__ == "__main__":
    main()
