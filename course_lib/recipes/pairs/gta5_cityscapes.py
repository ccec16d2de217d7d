"""GTA5 -> Cityscapes at full size: AdaptSegNet's multi-level ResNet-101 setting, which the controls and the oracle share.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page. Where slides and paper give no
number, the released one is taken; released behaviour that contradicts the paper is a switch, named where it would stand.
"""

from course_lib.data.published import PICTURES
from course_lib.recipes.paper import Counts, PairSettings


def counts(source: str) -> Counts:
    """Of a complete download of a source and of Cityscapes."""
    target = PICTURES["cityscapes"]
    return Counts(PICTURES[source]["train"], target["train"], target["val"])


PAIR = PairSettings(
    name="gta5_cityscapes",
    scale="published",
    source="GTA5",
    pictures=counts("gta5"),
    source_layout="gta5",
    values=dict(
        space="cityscapes19",
        source_size=(720, 1280),  # [code] whole picture, no crop
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code] logits then go to the label's 1024x2048
        flip=False,  # [code] the mirror and scale flags are accepted and ignored
        network="deeplab_v2",
        # [paper] four ASPP branches are summed; the released forward stops after two: add "aspp_branches": 2 for its files
        # [code] starts from ImageNet and COCO (by users of it 42.0 mIoU, from ImageNet alone 40.6; paper 42.4), which
        # cannot be shipped: --set "network_options={'imagenet': 'DeepLab_resnet_pretrained_init-f81d91e8.pth'}"
        network_options={"imagenet": True},  # the form of the network is its default, AdaptSegNet's with two heads
        batch_size=1,  # [code]
        optimiser="sgd",  # [code]
        lr=2.5e-4,  # [code]
        head_factor=10.0,  # [code]
        # [code] lists backbone weights three times, which makes its rate 7.5e-4: --set published_duplicates=yes
        published_duplicates=False,
        momentum=0.9,  # [code] without Nesterov
        weight_decay=5e-4,  # [code]
        steps=150_000,  # [code] stops early ...
        schedule_steps=250_000,  # [code] ... of a schedule of this length
        power=0.9,  # [code]
        accumulate=1,  # [code] iter_size
        save_every=5_000,  # [code]
        select_spread=True,  # ours: the first pictures by name are of one city
        lambda_seg_aux=0.1,  # [code]
        workers=4,  # [code]
        colours_on="device",  # the same draws; workers are free of the work
    ),
)
