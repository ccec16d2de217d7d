"""HRDA (Hoyer et al., ECCV 2022): DAFormer at two resolutions.

Letters: as in `daformer`; Z the fused logits, Z_H those of the window seen at full resolution, w the weight of the second loss.

    the network        sees the picture halved and a window of it in detail, fused by an attention           networks/hrda.py
    each loss L        (1 - w) L(Z, y) + w L(Z_H, y in the window),  L_S and L_mix alike               methods/supervision.py
    teacher and test   the whole picture in detail, by windows
    the rest           DAFormer's; the feature distance is that of the halved picture
"""

from course_lib.methods.daformer import DAFormer


class HRDA(DAFormer):
    """DAFormer on a network of two resolutions.

    The network is its recipe's (`recipes/papers/hrda.py`).
    """

    name = "hrda"
