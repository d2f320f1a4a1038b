"""RecGauntlet: recommender systems under attack, and the truth about what survives."""

from pathlib import Path as _Path

from bench._version import __version__ as __version__

# The plugin folders (attacks, defenses, datasets) stand at the top of a checkout, where people
# look for them, and are imported as bench.attacks and so on. A wheel maps them under bench; in a
# checkout the root joins this package's search path. They have no __init__.py, so that Hugging
# Face's `datasets` is never shadowed.
_here = _Path(__file__).resolve().parent
if not (_here / "attacks").is_dir() and (_here.parent / "pyproject.toml").is_file():
    __path__.append(str(_here.parent))
