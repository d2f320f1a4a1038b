"""Any suitable attack of the library torchattacks, on user vectors, in our budget."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.api import (
    Context,
    Dataset,
    Defense,
    EmbeddingAttack,
    ModelPlugin,
    ThreatModel,
    param,
)
from bench.errors import InputError, PluginError
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.box import BoxScorer
    from bench.models.base import Recommender, TorchRecommender

LINF, L2 = ("linf",), ("l2",)
# name -> (norms, whether examples keep their order, whether it sees the whole catalogue, where
# no list has an end, instead of the four logits around it)
SUITABLE: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    **dict.fromkeys(("FGSM", "BIM", "PGD", "MIFGSM", "NIFGSM", "VMIFGSM", "VNIFGSM", "EOTPGD",
                     "RFGSM", "FFGSM", "UPGD", "Jitter"), (LINF, True, True)),
    "PGDL2": (L2, True, True), "CW": (L2, True, False), "SPSA": (LINF, True, False),
    **dict.fromkeys(("APGD", "APGDT", "FAB", "Square", "AutoAttack"),
                    ((*LINF, *L2), False, False))}
STEPPED = ("BIM", "PGD", "PGDL2", "MIFGSM", "NIFGSM", "VMIFGSM", "VNIFGSM", "EOTPGD", "RFGSM",
           "UPGD", "Jitter", "CW", "SPSA")
# parameter -> the attacks in which it does something
USED_BY = {"k": tuple(name for name, (_, _, catalogue) in SUITABLE.items() if not catalogue),
           "steps": (*STEPPED, "APGD", "APGDT", "FAB", "AutoAttack"), "step": STEPPED,
           "n_queries": ("Square", "AutoAttack"), "c": ("CW",)}
SKIPPING = ("APGD", "APGDT", "AutoAttack", "CW", "FAB", "Square")  # those who count as fooled
UNSUITABLE = {
    **dict.fromkeys(("DIFGSM", "TIFGSM", "SINIFGSM", "PIFGSM", "PIFGSMPP"),
                    "it resizes, shifts or dims pictures, which means nothing for a vector"),
    **dict.fromkeys(("OnePixel", "Pixle", "JSMA", "SparseFool"),
                    "it counts pixels changed and bounds none of them"),
    **dict.fromkeys(("DeepFool", "EADL1", "EADEN"), "it has no ball: its steps end where the "
                    "label flips, in no norm that is compared here"),
    "GN": "its noise is normal and has no bound; the attack `noise` is inside the ball",
    "TPGD": "it needs no label and leaves the clean scores, not the list",
    "VANILA": "it does nothing; `none` is that",
    **dict.fromkeys(("PGDRS", "PGDRSL2"), "it attacks a smoothed classifier of pictures")}


class TorchAttacks(EmbeddingAttack):
    """An attack of the library torchattacks by its name (Kim, arXiv 2010.01950), made to fit.

    One example is one user's vector; success is that the user's top recommendation leaves the
    top k. The library's assumptions are met by `bench.box`: a scalar box, a label that is the
    largest logit, logits of a readable scale, pinned examples for attacks that reorder them
    (APGD, FAB, Square, AutoAttack), a fenced random generator, and our own check of ε. What the
    wrapper cannot make right is refused with the reason. AutoAttack: Croce and Hein, ICML 2020;
    CW: Carlini and Wagner, S&P 2017; its shortest perturbation counts where it is within ε.
    APGD, APGDT, FAB, CW, Square and AutoAttack leave a user whom they cannot fool where the
    user was.

    What evaluation masks is masked here, and the item that is to leave is the first that is
    served: of a defended model by the scores that the defense serves. Where those have no slopes
    (re-rankers), it is the first of the model inside, and the attack is not called adaptive.

    Distance: that of the attack (linf, or l2 for PGDL2 and CW, either for APGD, APGDT, FAB,
    Square, AutoAttack), per user vector. White-box; Square and SPSA only read scores. A probe
    of stability: nobody perturbs stored vectors. Facts: how many users kept their item in the
    list before and after.

    Args:
        attack: name in torchattacks, as PGD, PGDL2, MIFGSM, APGD, CW, AutoAttack, Square, SPSA;
            what moves pixels or has no ball (DIFGSM, OnePixel, GN, …) is refused with the reason.
        eps, relative, norm: of the ball around each user vector.
        steps, step: iterations, and their length as a share of ε where the attack has one
            (CW: of Adam's first step).
        k: length of the list that the item is to leave, for the attacks on four logits (APGD,
            APGDT, AutoAttack, CW, FAB, Square, SPSA). The others raise the cross-entropy of the
            item over the whole catalogue (CATALOGUE A6), where no list has an end: for them it
            stays at 10, and only the facts count lists of it.
        copies: of noise, where randomised smoothing is attacked: scores are then shares of votes,
            softly. APGD, APGDT, AutoAttack, CW, FAB and Square leave users alone whom a few
            copies count as fooled already; so they strike the model inside, and are not adaptive.
        item: "top" the user's first recommendation, or "test" a test positive (oracle).
        n_queries: of Square. c: weight of CW's misclassification. A parameter that the attack
            named does not have is refused unless it stands at its default.

    Shapes: delta[table] is (users, width), zero for injected users.

    Example: attacks: [{torchattacks: {attack: [APGD, AutoAttack], eps: 0.3, norm: l2}}]
    """

    name = "torchattacks"
    attack: str = param("APGD", "name in torchattacks", choices=tuple(sorted(
        (*SUITABLE, *UNSUITABLE))))
    tables: str = param("user", "whose vectors: examples are users", choices=("user",))
    steps: int = param(10, "how many iterations", low=1)
    step: float = param(0.25, "length of a step as a share of eps, where steps have one", above=0)
    k: int = param(10, "length of the list that the item is to leave", low=1)
    item: str = param("top", "item that is to leave: the first recommended, or a test positive",
                      choices=("top", "test"))
    n_queries: int = param(300, "queries of Square, for each user", low=1)
    c: float = param(10.0, "weight of the misclassification in CW", above=0)
    copies: int = param(COPIES, WHAT_COPIES, low=1)
    oracle_by: ClassVar[str | None] = "item"
    aims_at_loss: ClassVar[bool] = False
    threat: ClassVar[ThreatModel] = ThreatModel("test-param", "white", "untargeted", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack in UNSUITABLE:
            raise InputError(f"{self.attack} cannot be right on vectors: "
                             f"{UNSUITABLE[self.attack]}", key="attack",
                             hint=f"suitable: {', '.join(sorted(SUITABLE))}")
        norms = SUITABLE[self.attack][0]
        if self.norm not in norms:
            raise InputError(f"{self.attack} of torchattacks has no {self.norm} ball", key="norm",
                             hint=f"its norm is {' or '.join(norms)}")
        for key in self.changed():
            if self.attack not in USED_BY.get(key, (self.attack,)):
                why = (f"{self.attack} raises the cross-entropy of the item over the whole "
                       "catalogue, where no list has an end" if key == "k" else
                       f"{self.attack} of torchattacks has no such parameter")
                raise InputError(f"{key} would change nothing: {why}", key=key,
                                 hint=f"leave it out, or take {', '.join(USED_BY[key])}")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if importlib.util.find_spec("torchattacks") is None:
            return "the package torchattacks is missing: pip install --no-deps torchattacks==3.5.1"
        if self.k + 2 >= data.n_items:
            return f"the list of {self.k} leaves no rivals among {data.n_items} items"
        return super().unfit(model, data)

    def unseen(self, defense: Defense, data: Dataset) -> str | None:
        reason = super().unseen(defense, data)
        if reason is None and self.adaptive and defense.noisy and self.attack in SKIPPING:
            return (f"{self.attack} leaves users alone whom few noisy copies count as fooled, and "
                    "is made without noise")
        return reason

    def stand_in(self, source: Recommender, ctx: Context) -> Recommender:
        from bench.models.base import innermost
        from bench.served import Noisy

        found = super().stand_in(source, ctx)
        skips = self.attack in SKIPPING and isinstance(found, Noisy)
        return innermost(source) if skips else found

    def budget_text(self) -> str:
        steps = f" {self.steps} steps" if self.attack in USED_BY["steps"] else ""
        return f"{super().budget_text()}, {self.attack}{steps}"

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        import torch

        from bench.box import Box, BoxScorer, UserScores
        from bench.perturb import project, row_norms

        (key, radius), = radii.items()
        table = model.tables()[key]
        users = torch.arange(data.n_genuine, device=ctx.device)
        chosen, masked = self._chosen(model, data, users)
        _, ordered, catalogue = SUITABLE[self.attack]
        box = Box(table, radius)
        scorer = BoxScorer(UserScores(model, users), box, chosen, masked, self.k, catalogue,
                           square=self.attack in ("Square", "AutoAttack")).eval()
        clean = scorer.pictures(scorer.scores.vectors)
        with ctx.seeded("torchattacks", self.attack), torch.enable_grad():
            made = self._attacked(scorer, clean, box.radius, ordered,
                                  ctx.number("torchattacks", self.attack) % 2**31)
        scorer.check_room(made)
        moved = scorer.vectors(made) - scorer.vectors(clean)  # (n, d)
        norms = row_norms(moved, self.norm)
        if self.attack in ("CW", "FAB"):  # the shortest that succeeds: outside the ball, none
            moved = torch.where((norms <= radius)[:, None], moved, 0.0)
        elif bool((norms > radius * 1.01).any()):
            raise PluginError(f"torchattacks: {self.attack} moves a vector {float(norms.max()):.4g}"
                              f" in {self.norm}, the budget is {radius:.4g}")
        moved = project(moved, radius * (1 - 1e-6), self.norm)  # rounding in the box
        whole = torch.zeros_like(table.rows())
        whole[users] = moved
        ctx.count(scorer.scores.queries)
        inside = [self._in_list(model, users, chosen, masked, d) for d in ({}, {key: whole})]
        ctx.notes.update({"item_in_list": inside[0], "item_in_list_attacked": inside[1]})
        return {key: whole}

    def _chosen(self, model: TorchRecommender, data: Dataset, users: Tensor
                ) -> tuple[Tensor, Tensor]:
        """The item of each user that is to leave the list, and what is never recommended.

        Args:
            data: genuine data, whose rows evaluation masks; those that the model was trained on
                may be others, where a defense cleaned them.
        """
        import torch

        from bench.served import as_served

        known = data.known("test")
        masked = torch.zeros((len(users), data.n_items), dtype=torch.bool, device=users.device)
        mine = known.users < data.n_genuine
        masked[torch.from_numpy(known.users[mine]).to(users.device),
               torch.from_numpy(known.items[mine]).to(users.device)] = True
        with torch.no_grad():
            served = as_served(model).scores(users)  # (n, m)
        top = served.masked_fill(masked, -torch.inf).argmax(dim=1)  # (n,)
        if self.item == "test":
            truth = data.truth("test")
            for user, item in zip(truth.users[::-1].tolist(), truth.items[::-1].tolist(),
                                  strict=True):
                if not masked[user, item]:
                    top[user] = item
        return top, masked

    def _attacked(self, scorer: BoxScorer, clean: Tensor, radius: float, ordered: bool,
                  seed: int) -> Tensor:
        import torch

        labels = scorer.labels()
        if ordered:
            found: Tensor = self._library(scorer, radius, seed)(clean, labels)
            return found.detach()
        made = clean.clone()
        with torch.no_grad():
            inside = scorer(clean).argmax(dim=1) == 0  # what is out of the list needs no attack
        for row in torch.nonzero(inside).flatten().tolist():
            with scorer.pinned(row):
                attack = self._library(scorer, radius, seed + row)
                made[row] = attack(clean[row:row + 1], labels[row:row + 1])[0].detach()
        return made

    def _library(self, scorer: BoxScorer, radius: float, seed: int) -> Any:
        """The library's attack with our budget in the units of the box."""
        import torchattacks

        from bench.box_options import options

        made = getattr(torchattacks, self.attack)(
            scorer, **options(self, radius, seed, scorer.width))
        if self.attack == "AutoAttack":
            for part in made._autoattack.attacks:
                if type(part).__name__ == "Square":
                    part.n_queries = self.n_queries
                else:
                    part.steps = self.steps
        return made

    def _in_list(self, model: TorchRecommender, users: Tensor, chosen: Tensor, masked: Tensor,
                 delta: Mapping[str, Tensor]) -> float:
        """The share of users whose item is among the k first served, by our own count, which is
        no query of the attacker's."""
        import torch

        from bench.queries import uncounted
        from bench.served import as_served

        served = as_served(model)
        with torch.no_grad(), uncounted(served), model.perturbed(delta):
            scores = served.scores(users).masked_fill(masked, -torch.inf)  # (n, m)
        above = (scores > scores.gather(1, chosen[:, None])).sum(dim=1)  # (n,)
        return float((above < self.k).double().mean())

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"attack": "APGD", "steps": 5, "k": 1}
