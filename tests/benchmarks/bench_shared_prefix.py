"""What it saves to run the prefix of a prompt once per user, side by side on this machine.

    python tests/benchmarks/bench_shared_prefix.py [MODEL] [--users 5] [--candidates 20]

MODEL is a hub name or a local folder of a causal model; without one, a GPT-2 of 6 layers and
width 256 with random weights, in which arithmetic outweighs overhead as in real ones. Both ways
score the same (prompt, candidate) pairs with the same batch size; the scores must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import time

import torch

from bench.device import device_name, pick_device
from bench.registry import Registry
from bench.text import likelihood, prompts
from bench.text.language import Language, load


def made_up(corpus: list[str], device: str) -> Language:
    """A GPT-2 of middling size with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    small = load("tiny-random", "causal", corpus=corpus)
    eos = small.tokenizer.eos_token_id
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(small.tokenizer), n_embd=256, n_layer=6, n_head=4, n_positions=1024,
        bos_token_id=eos, eos_token_id=eos)).eval().to(device)
    return Language(module, small.tokenizer, "causal", "GPT-2, 6 layers, width 256, random", 1024)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("model", nargs="?")
    ask.add_argument("--users", type=int, default=5)
    ask.add_argument("--candidates", type=int, default=20)
    ask.add_argument("--history", type=int, default=20)
    ask.add_argument("--batch", type=int, default=20)
    given = ask.parse_args()
    device = pick_device("auto")
    data = Registry().make("datasets", {"name": "ml-100k"}).load()  # type: ignore[attr-defined]
    texts = list(data.item_text)
    lm = (load(given.model, "causal", device=device, dtype="float32") if given.model
          else made_up(texts, device))
    prompt = prompts.load("yes-no", "pointwise")
    yes, no = likelihood.check_answers(lm, prompt.yes, prompt.no)
    tasks = []
    for user in range(given.users):
        rows = data.train.items[data.train.users == user][-given.history:]
        prefix = lm.begin + lm.ids(prompt.before([texts[i] for i in rows]))
        items = range(user * given.candidates, (user + 1) * given.candidates)
        tasks.append((prefix, [lm.ids("".join(prompt.after(texts[i]))) for i in items]))

    def separately(prefix: list[int], suffixes: list[list[int]]) -> torch.Tensor:
        found = torch.empty(len(suffixes))
        with torch.no_grad():
            for places in likelihood.chunks(suffixes, given.batch):
                logits = likelihood.first_logits(lm, [prefix + suffixes[n] for n in places])
                found[places] = likelihood.margins(logits, yes, no).cpu()
        return found

    def shared(prefix: list[int], suffixes: list[list[int]]) -> torch.Tensor:
        return likelihood.yes_no(lm, prefix, suffixes, yes, no, given.batch)

    tokens = sum(len(p) * len(s) + sum(map(len, s)) for p, s in tasks)
    print(f"{lm.name} on {device_name(device)}: {given.users} users, {given.candidates} "
          f"candidates, {tokens:,} prompt tokens")
    seconds, found = {}, {}
    for name, way in (("separately", separately), ("shared", shared)):
        way(*tasks[0])  # warm-up
        start = time.perf_counter()
        found[name] = torch.stack([way(*t) for t in tasks])
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        print(f"{name:>11}: {given.users / seconds[name]:8.2f} users/s, "
              f"{tokens / seconds[name]:10,.0f} prompt tokens/s")
    apart = float((found["separately"] - found["shared"]).abs().max())
    print(f"{seconds['separately'] / seconds['shared']:.1f} times faster; scores differ by at most "
          f"{apart:.1e}")
    if apart > 1e-4:
        raise SystemExit("the scores differ")


if __name__ == "__main__":
    main()
