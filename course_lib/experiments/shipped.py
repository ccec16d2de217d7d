"""Common starts that the library ships: a comparison then begins with its first row, not with minutes of training.

A file holds the whole network in 16-bit floats, what ImageNet gave it included, and is written by
`python data_scripts/make_starts.py`. Its SHA-256 stands here: a file that is damaged, or another one, is not used.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from course_lib.engine import CheckpointError
from course_lib.networks.safe_tensors import read_safetensors
from course_lib.recipes.recipe import Recipe

FOLDER = Path(__file__).parent / "starts"
SHA256 = {"ministreet": "c2270a4e91e09bcdf0029221e486901ca0f4f4601cd468dab98e9e03a32c381d"}


def shipped_start(recipe: Recipe) -> dict[str, Tensor]:
    """The weights of the start that `recipe.start_from` names, as 32-bit floats.

    Raises CheckpointError where the name is unknown, the file is not the one that was shipped, or its network or classes are
    not the recipe's.
    """
    name = recipe.start_from
    if name not in SHA256:
        raise CheckpointError(f"start_from={name}: no such start. There are: {', '.join(SHA256)}; or none, to train one.")
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file() or hashlib.sha256(content := path.read_bytes()).hexdigest() != SHA256[name]:
        raise CheckpointError(
            f"{path} is missing or is not the file that was shipped. Install the library again (in a checkout: "
            f"`git checkout -- {path.name}` in its folder), or train a start with start_from=none."
        )
    tensors, about = read_safetensors(content)
    wanted = {"network": recipe.network, "space": recipe.space}
    if (was := {key: about[key] for key in wanted}) != wanted:
        raise CheckpointError(
            f"start_from={name} holds {was['network']} with the classes of {was['space']}; this run wants {recipe.network} "
            f"with those of {recipe.space}. Train a start of its own with start_from=none."
        )
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
