"""Names and shapes of the tensors in the released checkpoints of DAFormer, HRDA, MIC, SePiCo, PiPa and CLUDA, written out from
their public code.

Sources (read for names and shapes alone):
    github.com/lhoyer/DAFormer   mmseg/models/backbones/mix_transformer.py          backbone.*
                                 mmseg/models/decode_heads/daformer_head.py, aspp_head.py, sep_aspp_head.py      decode_head.*
    github.com/lhoyer/HRDA       mmseg/models/decode_heads/hrda_head.py, daformer_head.py (for both)       decode_head.head.*,
                                                                                                     decode_head.scale_attention.*
    github.com/lhoyer/MIC        seg/mmseg/models/uda/: model.*, ema_model.*, imnet_model.*
    github.com/lhoyer/DAFormer   mmseg/models/backbones/resnet.py (ResNetV1c), mmseg/models/utils/res_layer.py: backbone.* of
                                 SePiCo's DeepLabV2; mmseg/models/decode_heads/aspp_head.py (ASPPModule): its decode_head.*
    github.com/BIT-DA/SePiCo     mmseg/models/decode_heads/proj_head.py, decode_head_decorator.py (no conv_seg):
                                 auxiliary_head.*; dlv2_head.py (conv_seg deleted): decode_head.*
                                 mmseg/models/uda/sepico.py, uda_decorator.py: model.*, ema_model.*, no imnet_model.*
                                 configs/_base_/models/*_proj_*.py, experiments.py (channels=512): widths
    github.com/chen742/PiPa      mmseg/models/segmentors/hrda_encoder_decoder.py, and encoder_decoder.py of PiPa_DAFormer/:
                                 cls_head.* and proj_head.* inside model.*; projection.py, module_helper.py: their layers
                                 mmseg/models/uda/dacs.py, and that of PiPa_DAFormer/: project.*, classifier.* beside model.*
    github.com/user0407/CLUDA    mmseg/models/decode_heads/hrda_head.py: decode_head.feat_weighter.*
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


def _conv_bn(name: str, width: int, inside: int) -> dict[str, tuple[int, ...]]:
    """mmcv's ConvModule of a 1x1 convolution, which has no bias before a normalisation."""
    return {f"{name}.conv.weight": (width, inside, 1, 1)} | _bn(f"{name}.bn", width)


def resnet_v1c(blocks=(3, 4, 23, 3)) -> dict[str, tuple[int, ...]]:
    """backbone.*, without the prefix: the stem of three convolutions, layers as torchvision's ResNet, no fc."""
    names = {"stem.0.weight": (32, 3, 3, 3)} | _bn("stem.1", 32)
    names |= {"stem.3.weight": (32, 32, 3, 3)} | _bn("stem.4", 32)
    names |= {"stem.6.weight": (64, 32, 3, 3)} | _bn("stem.7", 64)
    before = 64
    for layer, (depth, width) in enumerate(zip(blocks, (64, 128, 256, 512)), start=1):
        for i in range(depth):
            block = f"layer{layer}.{i}"
            names |= {f"{block}.conv1.weight": (width, before, 1, 1)} | _bn(f"{block}.bn1", width)
            names |= {f"{block}.conv2.weight": (width, width, 3, 3)} | _bn(f"{block}.bn2", width)
            names |= {f"{block}.conv3.weight": (4 * width, width, 1, 1)} | _bn(f"{block}.bn3", 4 * width)
            if i == 0:
                names |= {f"{block}.downsample.0.weight": (4 * width, before, 1, 1)} | _bn(f"{block}.downsample.1", 4 * width)
            before = 4 * width
    return names


def deeplab_head(classes: int = 19) -> dict[str, tuple[int, ...]]:
    """decode_head.*, without the prefix: convolutions without normalisation, hence with a bias."""
    names = {}
    for i in range(4):
        names |= _affine(f"aspp_modules.{i}.conv", classes, 2048, 3, 3)
    return names


def sepico_head(inside: int, mid: int) -> dict[str, tuple[int, ...]]:
    """auxiliary_head.*, with the prefix: the projector, 512 wide."""
    return _conv_bn("auxiliary_head.convs.0", mid, inside) | _conv_bn("auxiliary_head.convs.1", 512, mid)


def sepico(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of SePiCo with DAFormer's head: 1,122 names with B5, 12 of them of the projector."""
    inside = sum(size["widths"])
    return daformer(size) | sepico_head(inside, inside // 4)


def sepico_deeplab(blocks=(3, 4, 23, 3)) -> dict[str, tuple[int, ...]]:
    """A DeepLabV2 of SePiCo: 656 names with ResNet-101, 12 of them of the projector."""
    return prefixed("backbone.", resnet_v1c(blocks)) | prefixed("decode_head.", deeplab_head()) | sepico_head(2048, 2048)


def pipa_heads() -> dict[str, tuple[int, ...]]:
    """cls_head.* and proj_head.*: 17 names inside the network, 1024 wide whatever the encoder."""
    names = _affine("cls_head.0", 1024, 1024, 3, 3) | _bn("cls_head.1.0", 1024) | {"cls_head.3.weight": (19, 1024, 1, 1)}
    names |= _affine("proj_head.proj.0", 1024, 1024, 1, 1) | _bn("proj_head.proj.1.0", 1024)
    return names | _affine("proj_head.proj.2", 256, 1024, 1, 1)


def pipa_beside(width: int) -> dict[str, tuple[int, ...]]:
    """project.* and classifier.*: 6 names beside the network, on 256 features (DAFormer) or on 19 logits (HRDA)."""
    names = _affine("project.0", width, width, 1, 1) | _affine("project.2", 128, width, 1, 1)
    return names | _affine("classifier", 19, width, 1, 1)


def pipa_daformer(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of PiPa on DAFormer: 1,127 names with B5, and 6 beside it."""
    return daformer(size) | pipa_heads()


def pipa_hrda(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of PiPa on HRDA: 1,143 names with B5, and 6 beside it."""
    return hrda(size) | pipa_heads()


def cluda(size=B5) -> dict[str, tuple[int, ...]]:
    """A network of CLUDA on HRDA: 1,142 names with B5."""
    return hrda(size) | prefixed("decode_head.feat_weighter.", scale_attention(size["widths"], classes=1))
