"""Every model of RecBole 1.2.1 under its own name, with its own hyper-parameters.

RecBole is imported only when a model is built; names and parameters come from its property files
and from `recbole_models.json`, which `scripts/sweep_recbole.py --facts` writes. What RecBole does
at import and in its configuration is contained in `_recbole_compat`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.api import Context, Dataset, ModelPlugin, param
from bench.errors import InputError, PluginError, nearest
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.models.base import Recommender

FAMILY = "recbole"
VERSION = "1.2.1"
FAMILIES = ("general", "sequential", "context", "knowledge", "external")

# Paths, stages that the adapter drives itself, and what only names a feature of RecBole's files.
_DROPPED = {"pre_model_path", "pretrain_path", "mf_pretrain_path", "mlp_pretrain_path", "warm_up",
            "use_pretrain", "train_method", "train_stage", "save_step", "phase", "transform",
            "fields", "double_tower", "xgb_model", "xgb_silent", "xgb_nthread",
            "xgb_verbose_eval", "lgb_early_stopping_rounds", "convert_token_to_onehot",
            "token_num_threhold", "metric", "eval_metric", "seed", "force_row_wise"}
# Where the file does not say it, or calls a weight a whole number because its default is one.
_DECLARED = dict.fromkeys(("eta", "reg_weight", "negative_weight", "w_max"), "float")
_WINDOWS_PER_STEP = 64  # each of up to max_length rows
_USERS_PER_STEP = 128  # autoencoders take a user per row, and 2048 would be one step per epoch
_NOT_ITS_CHOICES = {"NNCF": {"neigh_info_method": ("random", "knn")},
                    "KD_DAGFM": {"teacher": ("CrossNet", "CIN")}}


_ROWS = ("what a row is: windows, a stretch of max_length items in which every next item is "
         "predicted at once; prefixes, each history up to each item, as RecBole trains, which "
         "costs up to max_length times as much")


@cache
def facts() -> dict[str, dict[str, Any]]:
    """What is known about each model: family, module, input, training, needs, gives, tables."""
    path = Path(__file__).with_name("recbole_models.json")
    loaded: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def members() -> list[str]:
    """The names of all 94 models."""
    return sorted(facts(), key=str.lower)


def properties_folder() -> Path | None:
    """Where RecBole keeps its default parameters, found without importing it; None: absent."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "properties" / "model"


class RecBoleModel(ModelPlugin):
    """What all models of RecBole share: facts about them, and how they are built."""

    model: ClassVar[str] = ""
    family: ClassVar[str] = ""

    @property
    def gives(self) -> frozenset[str]:
        known = facts()[self.model]  # models of single points take the labels that the data has
        return frozenset([*known["gives"], *(["dislikes"] if known["input"] == "points" else [])])

    @property
    def table_roles(self) -> frozenset[str]:
        known = facts()[self.model]
        if "embeddings" not in known["gives"]:
            return frozenset()
        return frozenset("user" if "user" in key or key == "UI_emb" else "item"
                         for key in known["tables"])

    @property
    def whole_histories(self) -> bool:
        return bool(facts()[self.model]["input"] == "users")

    def unfit(self, data: Dataset) -> str | None:
        return _unfit(self, data)

    def build(self, data: Dataset, ctx: Context) -> Recommender:
        from bench.models import _recbole_build

        for key, allowed in _choices(type(self)).items():
            if getattr(self, key) not in allowed:  # RecBole evaluates some of these as code
                raise PluginError(f"{self.model}: {key} is one of {', '.join(map(str, allowed))}, "
                                  f"not {getattr(self, key)!r}")
        return _recbole_build.build(self, data, ctx)


class RecBoleTrained(RecBoleModel, TrainedModel):
    """A model of RecBole that learns by gradient descent."""

    @classmethod
    def test_params(cls) -> dict[str, object]:
        learned: dict[str, object] = {"epochs": 2, "batch_size": 256, "learning_rate": 0.01}
        sizes: dict[str, object] = {"max_length": 8, "pretrain_epochs": 1, "num_clusters": 4,
                                    "reranker_CAN_NUM": "5"}
        fields = cls.__dataclass_fields__
        return learned | {k: v for k, v in sizes.items() if k in fields}


def member(name: str) -> type[ModelPlugin]:
    """The plugin class of the model with this name.

    Raises:
        InputError: RecBole has no such model, or is not installed.
    """
    if name not in facts():
        raise InputError(f"RecBole {VERSION} has no model {name!r}", hint=nearest(name, facts()))
    return _member(name)


@cache
def _member(name: str) -> type[ModelPlugin]:
    known = facts()[name]
    base: type[RecBoleModel] = RecBoleTrained if known["training"] not in ("closed", "trees") \
        else RecBoleModel
    annotations: dict[str, Any] = {}
    body: dict[str, Any] = {"__annotations__": annotations, "__doc__": _doc(name, known),
                            "__module__": __name__, "__qualname__": name, "name": name,
                            "model": name, "family": known["family"]}
    for key, default, kind, help_text, choices in _own_parameters(name):
        annotations[key] = kind
        body[key] = param(default, help_text, choices=choices)
    for key, default, kind, help_text in _added_parameters(name, known):
        annotations[key] = kind
        body[key] = param(default, help_text, low=0 if key == "negatives" else 1)
    if known["windows"]:
        annotations["rows"] = str
        body["rows"] = param("windows", _ROWS, choices=("windows", "prefixes"))
    return type(name, (base,), body)


def _doc(name: str, known: dict[str, Any]) -> str:
    source = f"{known['paper']} " if known["paper"] else ""
    return (f"{known['title']}\n\n{source}As implemented in RecBole {VERSION}; family "
            f"{known['family']}, learns from {known['input'].replace('-', ' ')}. {known['note']}"
            .rstrip() + f"\n\nExample: models: [{name}]\n")


def _added_parameters(name: str, known: dict[str, Any]) -> list[tuple[str, Any, type, str]]:
    added: list[tuple[str, Any, type, str]] = []
    if known["input"] in ("pairs", "points", "sequences-points"):
        help_text = "negatives sampled per positive"
        if known["input"] == "points":
            help_text += "; 0: only the negatives that the data labels"
        added.append(("negatives", 1, int, help_text))
    if known["input"].startswith("sequences"):
        added.append(("max_length", 50, int, "newest items of a history that are read"))
    if known["windows"]:
        added.append(("batch_size", _WINDOWS_PER_STEP, int, "rows per step"))
    if known["input"] == "users":
        added.append(("batch_size", _USERS_PER_STEP, int, "users per step"))
    return added


# -- RecBole's property files ------------------------------------------------------------------

def _own_parameters(name: str) -> list[tuple[str, Any, Any, str, tuple[Any, ...] | None]]:
    """(name, default, type, help, choices) of each hyper-parameter in RecBole's own file."""
    import yaml

    folder = properties_folder()
    if folder is None:
        raise InputError(f"model {name!r} needs RecBole, which is not installed",
                         hint=f"pip install --no-deps recbole=={VERSION}")
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = folder / f"{name.lower()}.yaml"
    if not path.is_file():
        return []  # Random has none
    text = path.read_text(encoding="utf-8")
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= value if isinstance(value, dict) else {key: value}
    found = []
    for key, value in flat.items():
        if key in _DROPPED or value is None:
            continue
        help_text, declared = _comment(text, key)
        value = _typed(value, _DECLARED.get(key, declared))
        key, value = _ours(key, value)
        choices = _NOT_ITS_CHOICES.get(name, {}).get(key) or _quoted_choices(help_text, value)
        found.append((key, value, _type_of(value, declared),
                      help_text or f"see {name} in RecBole", choices))
    return found


def _ours(key: str, value: Any) -> tuple[str, Any]:
    """Names that Python can spell, and attributes chosen from the data instead of by name."""
    if key == "selected_features":
        return key, ()
    if key == "item_attribute":
        return key, ""
    return key.replace("-", "_").removeprefix("xgb_").removeprefix("lgb_"), value


def _comment(text: str, key: str) -> tuple[str, str]:
    """The comment behind a value and the type it declares: ("The dropout rate.", "float")."""
    line = re.search(rf"^\s*{re.escape(key)}\s*:[^#\n]*#\s*(.*)$", text, re.M)
    if line is None:
        return "", ""
    parts = re.match(r"\(([^)]*)\)\s*(.*)", line[1].strip())
    help_text, declared = (parts[2], parts[1]) if parts else (line[1].strip(), "")
    if key == "selected_features":
        return "item attributes that are read; empty: every categorical one", declared
    if key == "item_attribute":
        return "item attribute for pre-training; empty: the first categorical one", declared
    return help_text, declared


def _typed(value: Any, declared: str) -> Any:
    """YAML's reading corrected: 1e-5 is a number, a list is a tuple, a declared float a float."""
    if isinstance(value, list):
        items = [_typed(v, "") for v in value]
        if any(isinstance(v, float) for v in items):
            items = [float(v) for v in items]
        return tuple(items)
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d_.]*e[-+]?\d+", value, re.I):
        return float(value)
    if declared == "str" and isinstance(value, int):
        return str(value)  # "500,100,20" is also one
    if declared == "bool" and isinstance(value, int):
        return bool(value)
    if declared == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _type_of(value: Any, declared: str) -> Any:
    if not isinstance(value, tuple):
        return type(value)
    empty = int if declared == "list of int" else str
    return tuple[(type(value[0]) if value else empty, ...)]  # type: ignore[misc]


def _quoted_choices(help_text: str, value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, str):
        return None
    listed = re.search(r"[Rr]ang\w+ in `*\[([^\]]*)\]", help_text)
    found = tuple(re.findall(r"['\"]([^'\"]+)['\"]", listed[1])) if listed else ()
    return found if value in found else None


def _choices(cls: type[ModelPlugin]) -> dict[str, tuple[Any, ...]]:
    fields = cls.__dataclass_fields__
    return {k: f.metadata["choices"] for k, f in fields.items() if f.metadata.get("choices")}


# -- what cannot run, and why ------------------------------------------------------------------

def _unfit(plugin: RecBoleModel, data: Dataset) -> str | None:
    known = facts()[plugin.model]
    if properties_folder() is None:
        return f"RecBole is not installed; pip install --no-deps recbole=={VERSION}"
    for package, distribution in known["packages"].items():
        if importlib.util.find_spec(package) is None:
            return f"it needs the package {package}, which is not installed; pip install " \
                   f"{distribution}"
    needs = known["needs"]
    if "knowledge" in needs and (data.knowledge is None or not len(data.knowledge.heads)):
        return "it needs a knowledge graph, and the dataset has none"
    if "times" in needs and not data.has_times:
        return "it needs times, to know in which order a user took items, and the dataset has none"
    if "item attributes" in needs and not _categorical(data):
        return "it needs a categorical item attribute, and the dataset has none"
    wanted = [*getattr(plugin, "selected_features", ()), getattr(plugin, "item_attribute", "")]
    for column in filter(None, wanted):
        if column not in _categorical(data):
            return f"item attribute {column!r} is not a categorical one of the dataset; it has " \
                   f"{', '.join(_categorical(data)) or 'none'}"
    if getattr(plugin, "negatives", 1) == 0 and \
            (known["input"] != "points" or not data.has_labels):
        return "negatives: 0 leaves nothing to tell apart, as the data labels no negatives"
    if getattr(plugin, "rows", "") == "windows" and getattr(plugin, "loss_type", "") == "BPR":
        return "rows: windows learns by cross-entropy; take loss_type: CE or rows: prefixes"
    if getattr(plugin, "inter_matrix_type", "") == "rating" and data.train.ratings is None:
        return "inter_matrix_type: rating needs ratings, and the dataset is implicit"
    if getattr(plugin, "n_cate", 1) != 1:
        return "n_cate above 1 needs pre-trained item vectors in RecBole's file format"
    return None


def _categorical(data: Dataset) -> list[str]:
    return [k for k, column in data.item_attributes.items() if column.dtype == object]
