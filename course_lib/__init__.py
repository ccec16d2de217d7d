"""Domain adaptation by contrastive learning for semantic segmentation: the library of the course.

Each layer imports only from those before it: labels; data, networks, losses, prototypes, pseudo_labels, teacher, mixing,
class_memory; methods; engine, evaluation; recipes; experiments; classroom, command line.
"""

__version__ = "0.2.0"
