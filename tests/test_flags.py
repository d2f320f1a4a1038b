"""All flags together: each explained, each with a letter, none on a healthy run."""

from __future__ import annotations

from pathlib import Path

from _flag_boards import FGSM, NOISE, PGD, attacks, board, losing

from bench import flags
from bench.flags import find


def test_every_flag_is_explained_and_has_a_letter_of_its_own() -> None:
    assert len(set(flags.MARKS.values())) == len(flags.EXPLAINED)
    assert set(flags.MARKS) == set(flags.EXPLAINED)
    assert len(flags.CHECKS) == len(flags.EXPLAINED)


def test_a_healthy_run_has_no_flags(tmp_path: Path) -> None:
    found = board(tmp_path, attacks(NOISE, FGSM, PGD), loss=losing(noise=.1, fgsm=.3, pgd=.4))
    assert find(found) == []
