"""User-level differential privacy by noised, clipped gradients (DP-SGD)."""

from __future__ import annotations

from bench.dp_steps import PrivateTraining


class DpSgd(PrivateTraining):
    """User-level DP-SGD (Abadi et al., CCS 2016; per user: McMahan et al., ICLR 2018).

    Adjacent data sets differ by one user's whole history, added or removed. Each step draws
    every user with probability `sample_rate` (Poisson), sums the gradient over at most
    `max_interactions` of a drawn user's train rows, clips it to norm `clip` over all shared
    parameters together, adds N(0, (noise · clip)²) to each shared coordinate of the sum, divides
    by sample_rate · users, and steps with the model's optimiser. Noise comes from ε and δ by an
    accountant, for epochs × round(1 / sample_rate) steps; early stopping is off, as looking at
    private validation data would cost privacy too.

    What (ε, δ) covers: every parameter but the users' own rows of user tables. A user's row is
    that user's local state: it is moved by that user's own gradient, unclipped and without noise,
    only when the user is drawn, and is never released ("billboard", or joint, DP: what others
    learn about a user is bounded, recommendations are computed at the user's side). The number of
    users and the catalogue count as public. What the guarantee does not cover: the choice of
    hyper-parameters, the published test metrics, and the noise being drawn from a seeded
    generator, which makes runs repeatable; a release needs a secret seed. Epsilon .inf, and
    noise_multiplier 0 with clip .inf, ask for no privacy and equal `none` bit for bit.

    Cost: one clipped gradient per drawn user; vectorised where torch.func can do the model's
    loss, one user at a time (some ten times a plain step per hundred users) where not. Adaptive
    attack: membership inference, of what is released bounded by TPR ≤ e^ε · FPR + δ.

    The steps are those of `bench.dp_steps.PrivateSteps`, the gradients those of `bench.dp`.

    Example: defenses: [{dp-sgd: {epsilon: 8, delta: 1e-5, clip: 1.0, sample_rate: 0.05}}]
    """

    name = "dp-sgd"
