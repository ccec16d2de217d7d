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
