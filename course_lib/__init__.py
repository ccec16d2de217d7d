"""Domain adaptation by contrastive learning for semantic segmentation: a course and the library behind it.

Floors, each importing only what stands below it:
labels -> data, networks, losses, prototypes, pseudo_labels -> methods -> engine, evaluation -> recipes -> classroom,
report, cli.
"""

__version__ = "0.2.0"
