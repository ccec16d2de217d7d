"""What contrastive terms remember of past batches, class by class; all processes hold one memory.

Letters: C classes, D numbers of a feature, n_c the features of class c so far.

State is in buffers, so that a resumed run is the same run; nothing here has a gradient. (`engine/memory.py` measures RAM.)
"""
