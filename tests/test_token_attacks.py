"""Probes on the vectors of tokens: what moves, how far, for whom. On two layers of random
weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, PluginError
from bench.models.base import Wrapped, build
from bench.registry import Registry
from bench.stages import Prepared, under_attack
from bench.text import likelihood
from bench.text.token_target import Span, Target, margins, mean_norm, moving, span
from bench.text_shown import offering

REGISTRY = Registry()
ATTACKS = ("token-embedding-fgsm", "token-embedding-pgd", "token-noise")
MODELS = ("yes-no", "tallrec")
ROLES = ("causal", "masked", "seq2seq")


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", users=24, items=24).load()
    return made.replace(item_text=[f"title {n} genre{n % 4}{' and more' * (n % 3)}"
                                   for n in range(24)])


def model(data: Dataset, name: str = "yes-no", role: str = "causal", **params: Any) -> Any:
    cls: Any = REGISTRY.get("models", name)
    chosen = plugin("models", name, **dict(cls.test_params()) | params)
    if role != "causal":
        other: Any = type("Other", (cls,), {"roles": (role,)})
        chosen = other.from_params(chosen.params())
    made = build(chosen, data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


@pytest.fixture(scope="module")
def asked(data: Dataset) -> Any:
    return model(data)


def attack(name: str, **params: Any) -> Any:
    return plugin("attacks", name, targets=2, **params)


def target(data: Dataset, asked: Any, item: int = 13, users: int = 10) -> Target:
    return Target(asked, item, np.arange(users))


def scores(made: Any, split: str = "test") -> Tensor:
    with torch.no_grad():
        found: Tensor = made.scores(torch.arange(made.data.n_genuine), split).clone()
    return found


def random_delta(like: Tensor, length: float, seed: int = 0) -> Tensor:
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    found: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * length
    return found


# -- what moves ----------------------------------------------------------------------------------

def test_the_span_holds_the_text_and_nothing_else(data: Dataset, asked: Any) -> None:
    assert data.item_text is not None
    for item in (0, 1, 2, 13):
        found, text = span(asked, item), data.item_text[item]
        language = asked.language
        assert list(found.suffix) == asked.suffix(item)
        ids = [found.suffix[n] for n in found.places]
        assert language.tokenizer.decode(ids).strip(' "') == text
        assert list(found.places) == list(range(found.places[0], found.places[-1] + 1))
        assert 0 < len(found.places) < len(found.suffix) - 10


def seen_vectors(asked: Any, prompts: Any) -> Tensor:
    """The vectors that reach the language model."""
    kept: list[Tensor] = []
    plain = likelihood.first_logits

    def watch(language: Any, rows: Any, embeds: Any = None) -> Tensor:
        kept.append(embeds)
        return plain(language, rows, embeds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "first_logits", watch)
        margins(asked, prompts)
    return kept[0]


def test_delta_is_zero_outside_the_span(data: Dataset, asked: Any) -> None:
    known = target(data, asked)
    delta = random_delta(known.still, 1.0)
    prompts = [(p, known.span, known.still) for p in known.prefixes[:4]]
    moved = seen_vectors(asked, [(p, s, delta) for p, s, _ in prompts])
    difference = moved - seen_vectors(asked, prompts)
    for row, (prefix, s, _) in enumerate(prompts):
        for at in range(difference.shape[1]):
            if at - len(prefix) in s.places:
                expected = delta[s.places.index(at - len(prefix))]
                assert torch.allclose(difference[row, at], expected, atol=1e-6)
            else:
                assert bool((difference[row, at] == 0).all())


@pytest.mark.parametrize("role", ROLES)
def test_without_delta_the_margins_are_those_that_the_model_scores_by(data: Dataset,
                                                                      role: str) -> None:
    made = model(data, role=role)
    items = np.array([3, 8, 13])
    history = made.history(5, "test")[-3:]
    with made.evaluating(), torch.no_grad():
        plain = made.rate(5, history, items, "test")
        spans = [span(made, int(i)) for i in items]
        prefix = made.prefix(history, room=max(len(s.suffix) for s in spans))
        width = made.language.embeddings().embedding_dim
        found = margins(made, [(prefix, s, torch.zeros(len(s.places), width)) for s in spans])
    assert found.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    assert plain.std() > 0


@pytest.mark.parametrize("role", ROLES)
def test_the_slope_is_that_of_finite_differences(data: Dataset, role: str) -> None:
    made = model(data, role=role)
    made.module.double()
    plain = likelihood.margins
    # T5 takes its norms in float32 whatever it computes in
    h, close, least = (3e-3, 0.02, 1e-4) if role == "seq2seq" else (1e-5, 1e-4, 1e-8)

    def exact(logits: Tensor, yes: Any, no: Any) -> Tensor:
        found: Tensor = logits[..., list(yes)].logsumexp(-1) - logits[..., list(no)].logsumexp(-1)
        return found

    with pytest.MonkeyPatch.context() as patch, made.evaluating():
        patch.setattr(likelihood, "margins", exact)
        known = target(data, made)
        known.still = known.still.double()
        at = random_delta(known.still, 0.05).double()
        _, slope = known.mean(at)
        for seed in range(3):
            way = random_delta(known.still, 1.0, seed).double()
            rise = (known.mean(at + h * way)[0] - known.mean(at - h * way)[0]) / (2 * h)
            assert float((slope * way).sum()) == pytest.approx(rise, rel=close, abs=least)
    assert plain is likelihood.margins
    assert float(slope.norm()) > 1e-4


def test_the_mean_is_over_users_without_the_item(data: Dataset, asked: Any) -> None:
    rows = data.known("test")
    owners = np.unique(rows.users[(rows.items == 13) & (rows.users < 10)])
    assert len(owners)
    known = target(data, asked)
    assert len(known.prefixes) == 10 - len(owners)
    value, _ = known.mean(known.still)
    alone = [float(margins(asked, [(p, known.span, known.still)])) for p in known.prefixes]
    assert value == pytest.approx(sum(alone) / len(alone), abs=1e-5)
    assert known.queries == len(known.prefixes)


def test_it_does_not_matter_how_many_prompts_are_read_at_once(data: Dataset, asked: Any) -> None:
    few = target(data, model(data, prompts_at_once=3))
    assert len(few.prefixes) > 3
    at = random_delta(few.still, 0.05)
    (a, first), (b, second) = few.mean(at), target(data, asked).mean(at)
    assert a == pytest.approx(b, abs=1e-5)
    assert torch.allclose(first, second, atol=1e-6)


def test_the_unit_is_the_mean_norm_of_the_texts_tokens(data: Dataset, asked: Any) -> None:
    tokens = set()
    for text in data.item_text or ():
        tokens |= set(asked.language.tokenizer(text)["input_ids"])
    table = asked.language.embeddings().weight
    slow = sum(float(table[t].norm()) for t in tokens) / len(tokens)
    assert mean_norm(asked) == pytest.approx(slow, rel=1e-5)


# -- how far -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ATTACKS)
def test_every_token_stays_in_its_ball(data: Dataset, asked: Any, name: str) -> None:
    known = target(data, asked)
    with asked.evaluating():
        delta = attack(name).perturbation(known, 13, 0.02, Context(0))
    lengths = delta.norm(dim=1)
    assert float(lengths.max()) == pytest.approx(0.02, rel=1e-4)
    if name != "token-embedding-pgd":
        assert lengths.tolist() == pytest.approx([0.02] * len(delta), rel=1e-4)


def test_what_leaves_the_ball_is_refused(data: Dataset, asked: Any) -> None:
    base = REGISTRY.get("attacks", "token-noise")
    known = target(data, asked)
    for factor, word in ((1.01, "budget"), (float("nan"), "finite")):
        far = type("Far", (base,), {"delta": lambda self, t, i, r, c, f=factor: random_delta(
            t.still, r * f)})
        with pytest.raises(PluginError, match=word):
            far().perturbation(known, 13, 0.02, Context(0))
    short = type("Short", (base,), {"delta": lambda self, t, i, r, c: t.still[1:]})
    with pytest.raises(PluginError, match="shape"):
        short().perturbation(known, 13, 0.02, Context(0))


@pytest.mark.parametrize(("name", "whose"), [("yes-no", "own"), ("tallrec", "own"),
                                             ("yes-no", "unseen")])
def test_gradient_steps_raise_the_mean_margin_more_than_noise(data: Dataset, name: str,
                                                              whose: str) -> None:
    made = model(data, name)
    radius = 0.1 * mean_norm(made)
    gains: dict[tuple[str, int], list[float]] = {}
    with made.evaluating():
        for item in (9, 13, 17):
            known, unseen = (Target(made, item, np.arange(n, n + 12)) for n in (0, 12))
            measured = known if whose == "own" else unseen
            clean = measured.mean(measured.still)[0]
            for a in ATTACKS:
                for seed in range(4 if a == "token-noise" else 1):
                    delta = attack(a).perturbation(known, item, radius, Context(seed))
                    gains.setdefault((a, seed), []).append(measured.mean(delta)[0] - clean)
    means = {key: float(np.mean(found)) for key, found in gains.items()}
    noise = max(abs(v) for (a, _), v in means.items() if a == "token-noise")
    assert means["token-embedding-fgsm", 0] > 2 * noise
    assert means["token-embedding-pgd", 0] > 2 * noise


def test_one_full_step_of_pgd_is_fgsm_and_more_are_no_weaker(data: Dataset, asked: Any) -> None:
    known = target(data, asked)
    with asked.evaluating():
        one = attack("token-embedding-fgsm").perturbation(known, 13, 0.1, Context(0))
        same = attack("token-embedding-pgd", steps=1, step=1.0).perturbation(
            known, 13, 0.1, Context(0))
        many = attack("token-embedding-pgd", steps=20, step=0.2).perturbation(
            known, 13, 0.1, Context(0))
        assert torch.allclose(one, same, atol=1e-7)
        assert known.mean(many)[0] >= known.mean(one)[0]


def test_pgd_returns_its_best_iterate(data: Dataset, asked: Any) -> None:
    known = target(data, asked)
    visited: list[float] = []
    plain = known.mean

    def mean(delta: Tensor) -> tuple[float, Tensor]:
        value, slope = plain(delta)
        if bool(delta.any()):
            visited.append(value)
        return value, slope

    known.mean = mean  # type: ignore[method-assign]
    with asked.evaluating():  # steps so long that it overshoots
        made = attack("token-embedding-pgd", steps=8, step=2.0).perturbation(
            known, 13, 2.0, Context(0))
    assert plain(made)[0] == pytest.approx(max(visited))


# -- in a cell -----------------------------------------------------------------------------------

def strike(made: Any, data: Dataset, name: str, seed: int = 0, **params: Any) -> tuple[Any, Any]:
    """What is struck and the scores while it lasts."""
    chosen = attack(name, **params)
    with (under_attack(chosen, made, Prepared(data, data, data, None), Context(seed)) as struck,
          offering(made, struck.offer)):  # as exposures are measured
        return struck, scores(struck.model)


def test_eps_zero_is_the_identity(data: Dataset, asked: Any) -> None:
    targets = attack("token-noise").aims(data, Context(0))
    with asked.offering(targets):
        clean = scores(asked)
    for name in ATTACKS:
        assert torch.equal(strike(asked, data, name, eps=0.0)[1], clean), name


@pytest.mark.parametrize("name", MODELS)
def test_only_the_targets_move_against_the_others(data: Dataset, name: str) -> None:
    made = model(data, name)
    targets = attack("token-noise").aims(data, Context(0))
    with made.offering(targets):
        clean = scores(made)
    struck, under = strike(made, data, "token-embedding-pgd", eps=0.5)
    others = np.setdiff1d(np.arange(data.n_items), targets)
    rises = []
    for user in range(data.n_genuine):
        offered = [i for i in others.tolist() if clean[user, i] >= 0]
        inside = [i for i in targets.tolist() if clean[user, i] >= 0]
        for a in offered[1:]:  # differences between items that are no targets stay
            assert float(under[user, a] - under[user, offered[0]]) == pytest.approx(
                float(clean[user, a] - clean[user, offered[0]]), abs=1e-5)
        rises += [float(under[user, t] - under[user, offered[0]] - clean[user, t]
                        + clean[user, offered[0]]) for t in inside]
    assert len(rises) > 10
    assert float(np.mean(rises)) > 0
    facts = struck.facts
    assert facts["margin"]["attacked"] > facts["margin"]["clean"]
    assert facts["queries"] > 0
    assert facts["radius"] == pytest.approx(0.5 * mean_norm(made))
    assert set(facts["clean_targets"]) >= {"target-hr@10", "target-rank"}


@pytest.mark.parametrize("name", ATTACKS)
def test_everything_comes_back(data: Dataset, asked: Any, name: str) -> None:
    before, state = scores(asked), {k: v.clone() for k, v in asked.state().items()}
    own = set(vars(asked))
    strike(asked, data, name, eps=1.0)
    with pytest.raises(KeyError, match="later"), under_attack(
            attack(name), asked, Prepared(data, data, data, None), Context(0)):
        raise KeyError("later")
    assert torch.equal(scores(asked), before)
    assert set(vars(asked)) == own
    assert "rate" not in own
    assert all(torch.equal(v, state[k]) for k, v in asked.state().items())
    assert all(p.grad is None for p in asked.module.parameters())


def test_it_is_measured_on_users_that_the_attacker_does_not_know(data: Dataset,
                                                                 asked: Any) -> None:
    chosen = attack("token-embedding-fgsm")
    seen, unseen = chosen.crowd(data, Context(0))
    with under_attack(chosen, asked, Prepared(data, data, data, None), Context(0)) as struck:
        assert np.array_equal(np.asarray(struck.data.asked), unseen)
    assert not set(seen) & set(unseen)
    assert len(seen) + len(unseen) == data.n_genuine
    text = plugin("attacks", "keyword-insertion", targets=2)
    assert all(np.array_equal(a, b) for a, b in zip(chosen.crowd(data, Context(0)),
                                                    text.crowd(data, Context(0)), strict=True))


@pytest.mark.parametrize("adaptive", [True, False])
def test_who_makes_a_delta_is_handed_no_test_row(data: Dataset, asked: Any, adaptive: bool) -> None:
    """With the model behind a target, attacked or undefended; they come back."""
    base, handed = REGISTRY.get("attacks", "token-noise"), []

    def delta(self: Any, target: Target, *rest: Any) -> Tensor:
        handed.append(len(target.model.data.test))
        with pytest.raises(PluginError, match="looks asks for batches of the test rows"):
            target.model.batches(0, 8, "test")
        return target.still

    class Victim:
        def undefended(self) -> Any:
            return asked

    looks = type("Looks", (base,), {"name": "looks", "delta": delta})(targets=2, adaptive=adaptive)
    assert len(asked.data.test)
    with under_attack(looks, asked if adaptive else model(data), Prepared(data, data, data, None),
                      Context(0, victim=Victim())):
        assert handed == [0, 0]
    assert asked.data is data
    assert "batches" not in vars(asked)


def test_wrappers_are_reached_and_do_not_keep_clean_scores(data: Dataset, asked: Any) -> None:
    class Keeping(Wrapped):
        kept: Tensor | None = None

        def scores(self, users: Tensor, split: str = "test") -> Tensor:
            if self.kept is None:
                self.kept = scores(self.base, split)
            return self.kept[users]

        def forget(self) -> None:
            self.kept = None
            super().forget()

    served = Keeping(asked)
    clean = scores(served)
    _, under = strike(served, data, "token-embedding-fgsm", eps=1.0)
    assert torch.equal(under, strike(asked, data, "token-embedding-fgsm", eps=1.0)[1])
    assert torch.equal(scores(served), clean)


def test_a_text_that_is_read_as_other_tokens_is_no_place_for_delta(data: Dataset,
                                                                   asked: Any) -> None:
    known = Span((1, 2, 3), (1,))
    with moving(asked, {i: (known, torch.zeros(1, 32)) for i in range(24)}), \
            pytest.raises(CannotActError, match="rewrites"):
        scores(asked)


def without_text(data: Dataset, items: Any) -> Dataset:
    return data.replace(item_text=["" if n in items else t
                                   for n, t in enumerate(data.item_text or ())])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_target_without_a_text_is_left_alone_and_counted(data: Dataset, name: str) -> None:
    bare, full = attack(name).aims(data, Context(0)).tolist()
    given = without_text(data, [bare])
    served = model(given)
    with served.offering(np.array([bare, full])):
        clean = served.scores(torch.arange(24))
    struck, under = strike(served, given, name, eps=0.5)
    assert struck.facts["targets_without_tokens"] == 1
    assert struck.facts["margin"]["attacked"] != struck.facts["margin"]["clean"]
    assert struck.facts["tokens"] == len(span(served, full).places) > 0
    other = int(np.setdiff1d(np.arange(24), [bare, full])[0])
    users = [u for u in range(24) if clean[u, [bare, full, other]].min() >= 0]
    assert users
    for user in users:
        still, moved = ((under[user, t] - clean[user, t] - under[user, other] + clean[user, other]
                         ).abs() for t in (bare, full))
        assert float(still) < 1e-5 < float(moved)


@pytest.mark.parametrize("name", ATTACKS)
def test_targets_without_any_text_are_named(data: Dataset, name: str) -> None:
    targets = attack(name).aims(data, Context(0)).tolist()
    given = without_text(data, targets)
    served = model(given)
    with pytest.raises(CannotActError, match=f"i{targets[0]}, i{targets[1]} is read as has none"):
        strike(served, given, name)
    known = target(given, served, targets[0])  # nothing to move: no error, and the plain margin
    assert known.span.places == ()
    assert known.mean(known.still)[0] == pytest.approx(float(margins(
        served, [(p, Span(known.span.suffix, (0,)), torch.zeros(1, known.still.shape[1]))
                 for p in known.prefixes]).mean()), abs=1e-5)


@pytest.mark.parametrize("name", [*ATTACKS, "gcg-suffix"])
def test_a_text_too_long_for_a_prompt_is_refused_by_name(data: Dataset, name: str) -> None:
    made = plugin("attacks", name, targets=1, **({"tokens": 2} if name == "gcg-suffix" else {}))
    (item,), texts = made.aims(data, Context(0)), list(data.item_text or ())
    texts[item] = " ".join(f"word{n}" for n in range(3000))
    served = model(data.replace(item_text=texts))
    with (pytest.raises(CannotActError, match=f"text of i{item} is too long for a prompt"),
          under_attack(made, served, Prepared(data, data, data, None), Context(0))):
        pass


def test_other_models_are_refused_with_a_reason(data: Dataset) -> None:
    for name in ATTACKS:
        for other in ("bprmf", "text-cosine", "title-likelihood", "listwise"):
            assert "yes or no" in attack(name).unfit(plugin("models", other), data)
        for fits in MODELS:
            assert attack(name).unfit(plugin("models", fits, model="tiny-random"), data) is None
        assert "targets are more than" in plugin("attacks", name, targets=20).unfit(
            plugin("models", "yes-no", model="tiny-random", candidates=40), data)


def test_all_of_one_budget_are_compared_and_none_is_realisable() -> None:
    found = {attack(name, eps=0.2).comparable() for name in ATTACKS}
    assert len(found) == 1
    assert not any(attack(name).threat_model().realisable for name in ATTACKS)


def test_noise_is_another_one_for_each_seed_and_item(data: Dataset, asked: Any) -> None:
    known = target(data, asked)
    noise = attack("token-noise")
    made = [noise.perturbation(known, item, 0.1, Context(seed))
            for item, seed in ((13, 0), (13, 0), (13, 1), (14, 0))]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])
