"""Values that a loss has when nothing is learnt yet: with them on the plot, "stuck or normal?" answers itself.

Each function gives (value, what it means), the form that `figures.loss_curves` and `Method.landmarks` use.
"""

import math

Landmark = tuple[float, str]


def cross_entropy(num_classes: int) -> Landmark:
    """Where cross-entropy starts: every class equally likely, -log(1/C) = ln C.

    >>> cross_entropy(19)
    (2.9444389791664403, 'ln 19: knows nothing')
    """
    return math.log(num_classes), f"ln {num_classes}: knows nothing"


def discriminator() -> Landmark:
    """Where the discriminator's mean loss ends when it cannot tell the domains apart: ln 2.

    >>> round(discriminator()[0], 4)
    0.6931
    """
    return math.log(2), "ln 2: cannot tell the domains apart"


def adversarial() -> Landmark:
    """The segmenter's adversarial loss when the discriminator cannot tell; above it, the discriminator is winning."""
    return math.log(2), "ln 2: the discriminator cannot tell"


def info_nce(candidates: int) -> Landmark:
    """Where a contrastive loss starts when all `candidates`, the positive among them, look alike."""
    return math.log(candidates), f"ln {candidates}: all look alike"


def nt_xent(pictures: int) -> Landmark:
    """Where SimCLR's loss stands when the 2N views of a batch all look alike: ln(2N - 1).

    An untrained network may begin a little above: embeddings that differ by chance are worse than equal ones.
    """
    return info_nce(2 * pictures - 1)


def nt_xent_solved(pictures: int, temperature: float) -> Landmark:
    """SimCLR's loss when every view equals its partner and is at right angles to all others; little is left to gain.

    >>> round(nt_xent_solved(8, 0.5)[0], 6)
    1.062879
    """
    left = math.log1p((2 * pictures - 2) * math.exp(-1 / temperature))
    return left, f"{left:.2f}: partners equal, others at right angles"
