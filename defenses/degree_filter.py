"""Find fake users by how popular the items they chose are, and train without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.detection import TrainedDetector
from bench.detection_features import degree_features, entropy_tree, judged_by_others
from bench.detection_metrics import Flags


class DegreeFilter(TrainedDetector):
    """DegreeSAD: a decision tree on the popularity of the items that a user selected.

    Fake profiles choose items by a rule, and the rule shows in the degrees d(i) of the items
    (how many users have them). Over a user's items: MUD = mean d(i), RUD = max d − min d,
    QUD = lower quartile of d. A tree (entropy criterion) learns from them which users are fake.
    W. Li, M. Gao, H. Li, J. Zeng, Q. Xiong and S. Hirokawa, "Shilling Attack Detection in
    Recommender Systems via Selecting Patterns Analysis", IEICE Transactions on Information and
    Systems E99-D(10), 2016. The code in SDLib forgets to divide MUD by the profile's length;
    here it is the mean.

    Labels come from fakes that the defender makes (see `trained_on`); suspicion is the share of
    own fakes in a user's leaf, of a tree that was learned without that user. Ratings are not
    read. Works on explicit and implicit data and with every model. Flagged users lose their train
    rows and keep their place.

    Knowledge: train rows, and the attacks named in `trained_on`. Adaptive attack: profiles that
    draw items as often as genuine users do (popularity sampling, copies of genuine users).

    Args:
        trained_on, train_budget: which attacks make its examples, and how many.
        false_alarm_cost, max_share: where it flags.
        depth, leaf: of the tree.

    Shapes: features (users, 3), suspicion (users,).

    Example: defenses: [{degree-filter: {trained_on: "random-profiles,bandwagon-profiles"}}]
    """

    name = "degree-filter"
    depth: int = param(4, "most questions from the root of the tree to a leaf", low=1)
    leaf: int = param(10, "fewest users in a leaf", low=1)
    reads_ratings: ClassVar[bool] = False

    def judge(self, data: Dataset, campaign: Ints, ctx: Context) -> Floats:
        def learn(features: Floats, labels: Flags, fold: int) -> Callable[[Floats], Floats]:
            return entropy_tree(features, labels, self.depth, self.leaf, ctx, fold)

        return judged_by_others(degree_features(data), campaign, self.folds, ctx, learn)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"train_budget": 0.3, "folds": 3, "leaf": 2}
