"""Federated training: users' rows and vectors stay with the users, the server adds gradients."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.training import FitResult, Loop


class Federated(Defense):
    """Federated averaging of the model's own loss (McMahan et al., AISTATS 2017; recommenders:
    Ammad-ud-din et al., arXiv:1901.09888, 2019, and Chai et al., IEEE Intelligent Systems 2021).

    A client is a user. An epoch asks every client once, `clients` of them in a round. Each gets
    the shared parameters, computes on its own train rows (the very rows, with the negatives, that
    training in one place sees), and uploads the sum g_u of their gradients by the shared
    parameters; its own row of user tables, and its own bias, never leave it. Each uploaded row of
    an item, and each other parameter as a whole, is shortened to norm `clip`. The server steps
    with the model's own optimiser on Σ g_u / Σ n_u, n_u the rows of u (where the model sums its
    loss: Σ g_u; with `weights: equal` the mean of g_u / n_u over all who uploaded; a malicious
    client counts as any other there, and reports no row where rows count); a client moves its own
    row by the same optimiser, with a memory of its own. local_steps 1 is FedSGD: all clients in a
    round and no clip are plain full-batch training. More is FedAvg: a client descends `local_steps`
    times on its own copy, of shared parameters and of its own row, and uploads the way w − w_u,
    which the server takes for a gradient, n_u (w − w_u) / local_rate (Reddi et al., ICLR 2021; with
    sgd of the same rate it is the weighted average of the clients' parameters).

    Robust aggregation: coordinate-wise median and trimmed mean (Yin et al., ICML 2018) and
    multi-Krum (Blanchard et al., NeurIPS 2017), each scaled back to the size of the sum. An item's
    row counts the clients alone who uploaded it, as most clients touch few items. A target that
    malicious clients alone upload has no honest upload to be outvoted by.

    Hiding: `secure: masks` (Bonawitz et al., CCS 2017) or `encrypted` (BFV, as Chai et al. do by
    Paillier) show the server the sum alone, of numbers rounded to steps of the least power of two
    that leaves no sum outside 32 bits: the same model up to that. Uploads are whole tables then, so
    that which rows they touch says nothing. Encryption is slow: on 54,000 numbers and 64 clients a
    round took 80 times as long as without and 230 times the bytes, masks 10 and 17 times
    (`tests/benchmarks/bench_federated.py`). Neither can check a client's clip, which malicious
    clients are taken to keep. Without them, `cover` lets each client upload the gradient of that
    many further items per positive, as if taken (mean rating, where ratings are learned: FedRec,
    Lin et al., IEEE Intelligent Systems 2021); its own row learns from the true rows alone.

    Privacy: with `noise_multiplier` z each client shortens its whole upload to norm `user_clip` C
    and adds N(0, (z C)²/h) to every number of it, h = `honest` of the round's clients, so that
    the sum has noise of at least z C while so many add theirs (Dwork et al., EUROCRYPT 2006; the
    "distributed noise" of Kairouz et al., ICML 2021, with rounded in place of discrete Gaussians).
    Adjacent are a user's whole history and none in its place; the number of users is public. All
    users are asked, those without a row too, each in one round an epoch: E epochs are E Gaussians
    for a user, whose ε at δ is exact; as the server knows who takes part, nothing is gained by
    sampling. ε covers the shared parameters; a user's own row stays at home ("joint" DP). It holds
    against the server only with `secure`; it is quoted only where in every round h honest clients'
    noise reached the sum (lower `honest` for dropouts and malicious clients: each adds more). Not
    covered: the choice of hyper-parameters, published test metrics, noise of floating point from
    a seeded generator. `noise_multiplier` 0 promises nothing: sums and models leak.

    Without noise, early stopping looks at the validation scores that clients would report; with
    it there is none. Fake users are clients who keep to the
    protocol, unless a client attack says otherwise. Adaptive attack: fed-rec-attack, a-hum.

    Example: defenses: [{federated: {clients: 256, clip: 1.0}}]
    """

    name = "federated"
    clients: int = param(256, "clients per round; 0: all", low=0)
    weights: str = param("rows", "how clients count: rows, as each of their rows counts the same; "
                         "equal, as each client does", choices=("rows", "equal"))
    local_steps: int = param(1, "steps of descent that a client takes in a round; 1: FedSGD, "
                             "more: FedAvg", low=1)
    local_rate: float = param(0.0, "size of a client's own steps, of several; 0: the server's",
                              low=0, high=1e6)
    learning_rate: float = param(0.0, "step size of the server; 0: the model's own", low=0,
                                 high=1e6)
    clip: float = param(1.0, "largest norm of an uploaded row; .inf does not clip", above=0,
                        high=math.inf)
    aggregation: str = param("sum", "how the server puts uploads together",
                             choices=("sum", "median", "trimmed-mean", "krum"))
    assumed: float = param(0.1, "share of clients taken to be malicious: trimmed at either end, "
                           "or left out by krum", low=0, high=0.49)
    dropout: float = param(0.0, "share of a round's clients who vanish before they upload", low=0,
                           high=0.9)
    cover: int = param(0, "further items per positive whose rows are uploaded to hide it", low=0,
                       high=10)
    secure: str = param("none", "whether the server sees the sum of a round alone",
                        choices=("none", "masks", "encrypted"))
    neighbours: int = param(20, "with how many others a client shares masks; 0: with all", low=0)
    threshold: float = param(0.5, "share of its neighbours who can unmask a client that vanished",
                             above=0, high=1)

    noise_multiplier: float = param(0.0, "noise of a round's sum in units of user_clip, added by "
                                    "the clients in shares; 0: none", low=0)
    user_clip: float = param(math.inf, "largest norm of a client's whole upload, over all "
                             "parameters; .inf does not clip", above=0, high=math.inf)
    honest: float = param(1.0, "share of a round's clients whose noise has to reach the sum",
                          above=0, high=1)
    delta: float = param(1e-5, "probability with which the bound of the noise may fail; must be "
                         "below one over the number of users, better well below", above=0,
                         high=0.5)

    def __post_init__(self) -> None:
        if self.noise_multiplier:
            self._check_noise()
        if self.secure == "none":
            return
        if math.isinf(self.clip):
            raise InputError("numbers are laid into 32 bits, so they need a bound", key="clip",
                             hint="give a finite clip, or secure: none")
        if self.aggregation != "sum":
            raise InputError(f"{self.aggregation} compares single uploads, which secure: "
                             f"{self.secure} hides from the server", key="aggregation",
                             hint="take sum, or secure: none")
        if self.cover:
            raise InputError(f"secure: {self.secure} uploads every row already", key="cover",
                             hint="set cover: 0")
        if self.secure == "encrypted" and not 0 < self.clients <= 256:
            raise InputError("encrypted sums hold up to 256 clients", key="clients",
                             hint="lower clients, or take secure: masks")

    def _check_noise(self) -> None:
        if math.isinf(self.user_clip):
            raise InputError("noise cannot be scaled to an infinite user_clip", key="user_clip",
                             hint="give a finite user_clip, or noise_multiplier: 0")
        if self.weights != "equal":
            raise InputError("the server divides by the number of rows, which tells of users' "
                             "histories", key="weights", hint="set weights: equal")
        if self.aggregation != "sum":
            raise InputError(f"what noise promises is of the sum, not of {self.aggregation}",
                             key="aggregation", hint="take sum, or noise_multiplier: 0")
        if self.cover:
            raise InputError("noise is on every row already", key="cover", hint="set cover: 0")

    def spent(self, fit: FitResult) -> dict[str, float]:
        """ε and δ of the shared parameters; empty without noise, and where too little came in."""
        facts = fit.notes.get("federated") or {}
        if not facts.get("noise_multiplier") or facts["rounds_short_of_noise"] or fit.history:
            return {}
        from bench.accounting import gaussian_epsilon

        return {"delta": self.delta, "epsilon": gaussian_epsilon(
            facts["noise_multiplier"], self.delta, facts["rounds_per_user"])}

    @property
    def client_clip(self) -> float:
        """The bound that attacks by malicious clients keep to."""
        return self.clip

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "gradients" not in model.gives:
            return f"{model.name} is not learned by gradient steps that clients could upload"
        if "user-separable" not in model.gives:
            why = getattr(model, "not_separable", "graph propagation, in-batch negatives, batch "
                          "normalisation or counts over all users enter the loss")
            return (f"no client could compute its share alone: the loss of one user of "
                    f"{model.name} depends on other users' rows ({why})")
        if self.secure == "encrypted" and importlib.util.find_spec("tenseal") is None:
            return "secure: encrypted needs the tenseal package (pip install tenseal)"
        if getattr(model, "family", "") == "context":
            return (f"{model.name} keeps users and items in one table, of which a client could "
                    "not keep its own rows to itself")
        if self.noise_multiplier:
            from bench.accounting import no_promise

            return no_promise(self.delta, data)
        return None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        from bench._rounds import Rounds

        return Rounds(self, loop).run_epoch

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"clients": 16}
