"""Names and shapes of the tensors in the released checkpoints of DAFormer, HRDA and MIC, written out from their public code.

Sources (read for names and shapes alone):
    github.com/lhoyer/DAFormer   mmseg/models/backbones/mix_transformer.py          backbone.*
                                 mmseg/models/decode_heads/daformer_head.py, aspp_head.py, sep_aspp_head.py      decode_head.*
    github.com/lhoyer/HRDA       mmseg/models/decode_heads/hrda_head.py, daformer_head.py (for both)       decode_head.head.*,
                                                                                                     decode_head.scale_attention.*
    github.com/lhoyer/MIC        seg/mmseg/models/uda/: model.*, ema_model.*, imnet_model.*
"""

B5 = dict(widths=(64, 128, 320, 512), depths=(3, 6, 40, 3))
B0 = dict(widths=(32, 64, 160, 256), depths=(2, 2, 2, 2))
B1 = dict(widths=(64, 128, 320, 512), depths=(2, 2, 2, 2))
REDUCTIONS = (8, 4, 2, 1)


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _bn(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        **_affine(name, width), f"{name}.running_mean": (width,), f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }  # fmt: skip


def mit(widths, depths) -> dict[str, tuple[int, ...]]:
    """backbone.*, without the prefix."""
    names, before = {}, 3
    for stage, (D, depth, R) in enumerate(zip(widths, depths, REDUCTIONS), start=1):
        kernel = 7 if stage == 1 else 3
        names |= _affine(f"patch_embed{stage}.proj", D, before, kernel, kernel) | _affine(f"patch_embed{stage}.norm", D)
        for i in range(depth):
            block = f"block{stage}.{i}"
            names |= _affine(f"{block}.norm1", D)
            names |= _affine(f"{block}.attn.q", D, D) | _affine(f"{block}.attn.kv", 2 * D, D)
            names |= _affine(f"{block}.attn.proj", D, D)
            if R > 1:
                names |= _affine(f"{block}.attn.sr", D, D, R, R) | _affine(f"{block}.attn.norm", D)
            names |= _affine(f"{block}.norm2", D)
            names |= _affine(f"{block}.mlp.fc1", 4 * D, D) | _affine(f"{block}.mlp.dwconv.dwconv", 4 * D, 1, 3, 3)
            names |= _affine(f"{block}.mlp.fc2", D, 4 * D)
        names |= _affine(f"norm{stage}", D)
        before = D
    return names


def daformer_head(widths, classes: int = 19) -> dict[str, tuple[int, ...]]:
    """decode_head.*, without the prefix."""
    names = _affine("conv_seg", classes, 256, 1, 1)
    for i, D in enumerate(widths):
        names |= _affine(f"embed_layers.{i}.proj", 256, D)
    fuse = "fuse_layer.aspp_modules"
    names |= {f"{fuse}.0.conv.weight": (256, 1024, 1, 1)} | _bn(f"{fuse}.0.bn", 256)
    for i in (1, 2, 3):
        names |= {f"{fuse}.{i}.depthwise_conv.conv.weight": (1024, 1, 3, 3)} | _bn(f"{fuse}.{i}.depthwise_conv.bn", 1024)
        names |= {f"{fuse}.{i}.pointwise_conv.conv.weight": (256, 1024, 1, 1)} | _bn(f"{fuse}.{i}.pointwise_conv.bn", 256)
    return names | {"fuse_layer.bottleneck.conv.weight": (256, 1024, 3, 3)} | _bn("fuse_layer.bottleneck.bn", 256)


def scale_attention(widths, classes: int = 19) -> dict[str, tuple[int, ...]]:
    """decode_head.scale_attention.*, without the prefix."""
    names = _affine("conv_seg", classes, 256, 1, 1)
    for i, D in enumerate(widths):
        names |= _affine(f"embed_layers.{i}.proj", 256, D)
    return names | {"fuse_layer.conv.weight": (256, 1024, 1, 1)} | _bn("fuse_layer.bn", 256)


def prefixed(prefix: str, names: dict) -> dict:
    return {prefix + name: shape for name, shape in names.items()}


def daformer(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of DAFormer, and of MIC on it: 1,110 names with B5."""
    return prefixed("backbone.", mit(**size)) | prefixed("decode_head.", daformer_head(size["widths"]))


def hrda(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of HRDA, and of MIC on it: 1,126 names with B5."""
    heads = prefixed("head.", daformer_head(size["widths"])) | prefixed("scale_attention.", scale_attention(size["widths"]))
    return prefixed("backbone.", mit(**size)) | prefixed("decode_head.", heads)
