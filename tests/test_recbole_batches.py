"""What the RecBole adapter feeds to the models: windows, masks, negatives, alternation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from recbole_toy import CTX, data, plugin, poisoned

from bench.models.base import TorchRecommender, build


@pytest.mark.parametrize("name", ["BPR", "CDAE", "SGL", "FM", "SASRec", "MultiVAE"])
def test_a_doubled_batch_tells_a_sum_from_a_mean(name: str) -> None:
    model = build(plugin(name), data(), CTX)
    assert isinstance(model, TorchRecommender)
    batch = next(iter(model.batches(1, 64)))
    doubled = {k: torch.cat([v, v]) for k, v in batch.items()}
    losses = []
    for rows in (batch, doubled):
        with CTX.seeded("loss"):
            losses.append(float(model.loss(rows).detach()))
    assert losses[1] / losses[0] == pytest.approx(2.0 if model.sums_loss else 1.0, rel=0.02)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "SASRecF"])
def test_a_window_learns_what_its_prefixes_learn(name: str) -> None:
    """With dropout off, and histories that fit, the mean over all places of the windows is the
    mean over all prefixes, in the loss and in its gradient."""
    grads = []
    for rows in ("windows", "prefixes"):
        model = build(plugin(name, rows=rows, max_length=20), data(), CTX)
        assert isinstance(model, TorchRecommender)
        batches = list(model.batches(1, 10_000))
        assert len(batches) == 1
        if rows == "windows":  # one window per user needs the first cut to be beyond its end
            model.sampler.hyper = plugin(name, rows=rows, max_length=20)
            width = (batches[0]["targets"] >= 0).sum()
            assert int(width) == len(data().train) - 20
            batches = [_uncut(model)]
        loss = model.loss(batches[0])
        loss.backward()  # type: ignore[no-untyped-call]
        grads.append((float(loss.detach()), model.module.item_embedding.weight.grad.clone()))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-6)


def _uncut(model: TorchRecommender) -> dict[str, torch.Tensor]:
    """One window per user: everything before the last item, and what follows each place."""
    users = torch.arange(20)
    history, length = model.sampler.sequences.histories(users, "valid")  # type: ignore
    targets = torch.full_like(history, -1)
    targets[:, :-1] = history[:, 1:]
    place = torch.arange(history.shape[1])[None, :]
    targets = torch.where(place < length[:, None] - 1, targets, -1)
    items = history.gather(1, (length - 1)[:, None])[:, 0]
    inputs = torch.where(place < length[:, None] - 1, history, -1)
    return {"users": users, "items": items, "histories": inputs, "lengths": length - 1,
            "targets": targets}


def test_windows_cover_every_next_item_once() -> None:
    model = build(plugin("SASRec", max_length=3), data(), CTX)
    assert isinstance(model, TorchRecommender)
    pairs, seen = [], set()
    for epoch in (1, 2):
        for batch in model.batches(epoch, 7):
            assert int(batch["lengths"].min()) >= 1
            for user, history, target in zip(batch["users"], batch["histories"],
                                             batch["targets"]):
                for before, after in zip(history.tolist(), target.tolist()):
                    if after >= 0:
                        pairs.append((epoch, int(user), before, after))
            seen |= {(epoch, int(u), int(n)) for u, n in zip(batch["users"], batch["lengths"])}
    expected = []
    for u in range(20):
        own = data().train[data().train.users == u]
        own = own.items[np.argsort(own.times, kind="stable")].tolist()
        expected += [(e, u, a, b) for e in (1, 2) for a, b in itertools.pairwise(own)]
    assert sorted(pairs) == sorted(expected)
    assert {s[1:] for s in seen if s[0] == 1} != {s[1:] for s in seen if s[0] == 2}


def test_bert4rec_hides_items_and_asks_for_them() -> None:
    model = build(plugin("BERT4Rec", mask_ratio=0.4), data(), CTX)
    assert isinstance(model, TorchRecommender)
    rows = 0
    for batch in model.batches(1, 16):
        for k in range(len(batch["users"])):
            history, masked = batch["histories"][k], batch["masked"][k]
            at = [int(p) for p in batch["mask_at"][k] if p >= 0]
            truth = [int(i) for i in batch["mask_items"][k] if i >= 0]
            assert [int(history[p]) for p in at] == truth
            assert all(int(masked[p]) == 24 for p in at)
            kept = (masked != 24)
            assert torch.equal(masked[kept], history[kept])
            rows += bool(at)
    assert rows > 20


def test_recvae_teaches_its_halves_in_turn_and_leaves_both_free() -> None:
    model = build(plugin("RecVAE"), data(), CTX)
    assert isinstance(model, TorchRecommender)
    resting = [(model.module.encoder.fc1.weight.requires_grad,
                model.module.decoder.weight.requires_grad) for _ in model.batches(1, 64)]
    assert resting == [(True, False)] * 3 + [(False, True)]
    assert model.module.encoder.fc1.weight.requires_grad
    assert model.module.decoder.weight.requires_grad


@pytest.mark.parametrize("name", ["BPR", "FM", "SASRec", "CKE", "BERT4Rec", "DIEN"])
def test_real_rows_meet_the_same_batches_whatever_is_injected(name: str) -> None:
    """Negatives and masks of a real row do not depend on who else is there."""
    seen = []
    for on in (data(), poisoned()):
        model = build(plugin(name), on, CTX)
        assert isinstance(model, TorchRecommender)
        rows = {}
        for batch in model.batches(1, 1000):
            columns = [k for k in ("users", "items", "negatives", "labels", "masked",
                                   "negative_histories") if k in batch]
            for k, user in enumerate(batch["users"].tolist()):
                if user < 20:
                    row = tuple(tuple(np.atleast_1d(batch[c][k].numpy())) for c in columns)
                    rows[row] = rows.get(row, 0) + 1
        seen.append(rows)
    assert seen[0] == seen[1]
    assert seen[0]
