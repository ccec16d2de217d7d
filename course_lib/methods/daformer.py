"""DAFormer (Hoyer et al., CVPR 2022): DACS on a Transformer, with rare class sampling and a feature distance.

Letters: as in `dacs`; F the encoder's coarsest map, F' that of the network as the run began, A the cells of things; f_c the
share of class c among the source's pixels, T a temperature.

    source pictures    a class with P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T), then a picture of it  data/sampling.py
    the step           that of DACS:  L_S + L_mix                                                              methods/dacs.py
    feature distance   L_FD = lambda / |A| sum_{p in A} ||F_p - F'_p||_2             methods/terms/feature_distance.py
    the network        MiT-B5 with a context-aware head                                                       networks/mit.py
    the rate           linear warm-up, then linearly down to 0; heads ten times faster

Source labels and feature distance are one backward pass: L_FD needs the same features.
"""

from course_lib.methods.dacs import DACS


class DAFormer(DACS):
    """DACS on a Transformer, with rare class sampling, and an encoder that stays near its start on things.

    Sampling, network and rate are its recipe's (`recipes/papers/daformer.py`).
    """

    name = "daformer"
    own_terms = ("feature_distance",)
