"""Warnings about the numbers themselves, shown beside them and never hidden.

Each flag is a small function over the leaderboard that says where it fires. A flag does not
change a number: it says why a reader should not lean on it.
"""

from __future__ import annotations

from bench._flags_attacks import (
    adaptive_equals_static,
    adaptive_weaker,
    larger_eps_weaker,
    more_steps_weaker,
    not_adaptive,
    pgd_weaker_than_fgsm,
    static_only,
)
from bench._flags_common import Check, Flag
from bench._flags_controls import noise_floor, weaker_than_noise
from bench._flags_privacy import below_chance, dp_bound, epsilon_differs, met_before
from bench._flags_run import (
    exposure_floor,
    failed,
    missing_seeds,
    not_above_pop,
    one_seed,
    small_groups,
    ties,
)
from bench._flags_texts import exposure_ceiling, learned_poison, texts_cut
from bench.leaderboard import Board

EXPLAINED = {
    "weaker-than-noise": "the attack is no stronger than its control, which is noise, edits or "
                         "profiles at random, of the same size: it found nothing, or is broken",
    "pgd-weaker-than-fgsm": "PGD does less harm than one FGSM step in the same ball: look for "
                            "gradient masking or a bad step size (both climb the loss, so small "
                            "inversions of a ranking metric can occur)",
    "noise-floor": "the change lies inside the standard deviation between clean trainings with "
                   "other seeds: no finding",
    "more-steps-weaker": "more steps do less harm: a sign of gradient masking",
    "larger-eps-weaker": "a larger budget does less harm: the attack is not used up or is broken",
    "adaptive-weaker": "the adaptive attack does less harm than the static one: it searched "
                       "badly, and the defense may be weaker than it looks",
    "dp-bound": "a membership attack, on members and non-members that are alike but for that, is "
                "better than the privacy promised allows: the promise, or its implementation, is "
                "broken",
    "below-chance": "the membership attack is below chance: it reads the scores the wrong way "
                    "round, and the same scores read the other way give members away",
    "met-before": "the detector was trained with this very attack: what it finds says nothing of "
                  "attacks that it has not met",
    "static-only": "only attacks that do not know of the defense were tried; an adaptive one may "
                   "pass it",
    "epsilon-differs": "the privacy spent is not the privacy asked for",
    "missing-seeds": "not every seed asked for ran: the interval rests on fewer",
    "one-seed": "a single seed: the interval knows nothing of the spread between trainings",
    "exposure-floor": "no target reaches a list, attacked or not: the metric cannot see an "
                      "effect at this cut-off",
    "small-groups": "groups with too few users were left out of gap and worst group",
    "ties": "more than 1 % of the users have ties at the edge of their list (counted in "
            "expectation)",
    "not-above-pop": "the model is no better than popularity: its robustness says little",
    "failed": "the cell failed; its reason stands below the table",
    "exposure-ceiling": "every target reaches every list before and after the attack: the metric "
                        "cannot see an effect at this cut-off",
    "learned-poison": "the defense takes its genuine texts from the data that it trains on, and "
                      "this attack wrote into those: it cannot see what it takes for genuine",
    "texts-cut": "some texts or histories are longer than the model reads, and were read in part",
    "adaptive-equals-static": "the adaptive attack leaves exactly what the static one leaves: it "
                              "made no use of what it knows, and says no more of the defense than "
                              "the static one",
    "not-adaptive": "what the defense does when serving has no slope that the attack could follow: "
                    "it is made on the model inside, and an attack made for the defense may do "
                    "more harm. Randomised smoothing (by the expectation over noise) and macr are "
                    "followed; re-rankers, votes and rewritten texts are not",
}
MARKS = {code: chr(ord("a") + n) for n, code in enumerate(EXPLAINED)}


def find(board: Board) -> list[Flag]:
    """All flags of the leaderboard, in the order of EXPLAINED and of the tables."""
    return [flag for check in CHECKS for flag in check(board)]


CHECKS: tuple[Check, ...] = (
    weaker_than_noise, pgd_weaker_than_fgsm, noise_floor, more_steps_weaker, larger_eps_weaker,
    adaptive_weaker, dp_bound, below_chance, met_before, static_only, epsilon_differs,
    missing_seeds, one_seed, exposure_floor, small_groups, ties, not_above_pop, failed,
    exposure_ceiling, learned_poison, texts_cut, adaptive_equals_static,
    not_adaptive)
