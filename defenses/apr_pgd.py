"""Adversarial training against several steps: APR with PGD inside."""

from __future__ import annotations

from bench.adversarial import AdversarialDefense
from bench.api import param


class AprPgd(AdversarialDefense):
    """Adversarial personalised ranking with PGD inside (He et al., SIGIR 2018).

    The inner maximisation takes projected steps, as in Madry et al. (ICLR 2018): min over θ of
    L(θ) + weight · L(θ + δ), where δ of each batch is made by `steps` = 3 steps of length α = step
    · ε = ε/2 along the normalised gradient, δ ← Π(δ + α · g/‖g‖₂) per embedding row, from δ = 0,
    with the exact projection Π onto the ball of the declared norm. It is `adversarial-training`
    with these two defaults: the same parameters give the same numbers. Costs about two plain steps
    and two more per inner step beyond the first. eps 0, weight 0 or start_epoch ≥ epochs equal
    `none` bit for bit.

    Adaptive attack: pgd with more steps (10 or 25) than the training used; compare models by
    `relative: true`, as training with a fixed radius lengthens the rows.

    Example: defenses: [{apr-pgd: {eps: 0.5, start_epoch: 20}}]
    """

    name = "apr-pgd"
    steps: int = param(3, "ascent steps for δ, from δ = 0", low=1)
    step: float = param(0.5, "length of one ascent step, as a share of eps", above=0)
