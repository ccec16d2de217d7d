"""GTA5 -> Cityscapes at full size, as published. Each constant names its source.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page. Where slides and paper give no
number, the released one is taken; released behaviour that contradicts the paper is a switch, named where it would stand.
"""

from dataclasses import replace

from course_lib.engine import LoopSettings
from course_lib.evaluation import PseudoLabelSettings
from course_lib.methods import AdaptSegNetSettings, BiDASettings, OptimiserSettings, ProCASettings, SelfTrainingSettings
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """AdaptSegNet's setting for it and for the controls; the stages of ProCA and BiDA have their own."""
    papers = {"proca": ("proca", "contrast"), "self-training": ("proca", "self-training"), "bida": ("bida", "round")}
    if method not in papers:
        return _adaptsegnet(method)
    paper, stage = papers[method]
    return stages(paper)[stage]


def stages(paper: str) -> dict[str, Recipe]:
    """A paper as released, stage by stage."""
    return {"proca": _proca, "bida": _bida}[paper]()


def _proca() -> dict[str, Recipe]:
    sgd = OptimiserSettings(optimiser="sgd", lr=5e-4, head_factor=10.0, momentum=0.9, weight_decay=5e-4)  # [code] BN too
    source = Recipe(
        name="gta5_cityscapes",
        method="source-only",
        source_size=(720, 1280),  # [code]
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code] of the first three stages
        sampling="class-balanced",  # [code] FADA's
        network="deeplab_v2",
        network_options={"form": "proca", "imagenet": True},
        batch_size=8,  # [code] over 4 GPUs
        optimiser=sgd,
        loop=LoopSettings(steps=20_000, schedule_steps=31_250, save_every=1_000),  # [code]
        # [code] cosines divided by 50, raw logits compared with 0.9 (SDCA: probabilities), strict mean fed by both domains
        proca=ProCASettings(score="logit", lambda_lovasz=0.75),
        pseudo=PseudoLabelSettings(label_share=0.4, cap=0.9),  # [code] THRESHOLD_PERCENT 0.6
        self_training=SelfTrainingSettings(lambda_source=0.0, self_training_from="own"),  # [code] from ImageNet again
        workers=4,  # [code]
        colours_on="device",  # the same draws; workers are free of the work
    )
    contrast = replace(
        source,
        method="proca",
        batch_size=4,  # [code] 4 of each domain
        photometric="weak",  # [code] jitter, grey, blur
        optimiser=replace(sgd, lr=2.5e-4),  # [code]
        loop=LoopSettings(steps=90_000, schedule_steps=90_000, save_every=1_000),  # [code]
    )
    self_training = replace(
        source,
        method="self-training",
        target_size=(1024, 2048),  # [code]
        scale=(0.5, 1.5),  # [code]
        crop=(512, 1024),  # [code]
        flip=True,  # [code]
        target_photometric="weak",  # [code]
        test_size=(1024, 2048),  # [code] of the final network
        loop=LoopSettings(steps=90_000, schedule_steps=90_000, save_every=1_000),  # [code]
    )
    return {
        "source": source,
        "contrast": contrast,
        "labels": replace(self_training, test_size=(512, 1024)),  # [code] the network's input; labels at the picture's size
        "self-training": self_training,
    }


def _bida() -> dict[str, Recipe]:
    """BiDA: the release's schedule and weights, the slides' dynamic and hybrid labels, which it does not have."""
    sgd = OptimiserSettings(optimiser="sgd", lr=7.5e-5, head_factor=10.0, momentum=0.9, weight_decay=5e-4)  # [code]
    each = Recipe(
        name="gta5_cityscapes",
        method="bida",
        source_size=(850, 1546),  # [code] the short side 850, the other in proportion to 1914x1052
        target_size=(850, 1700),  # [code] likewise
        test_size=(730, 1460),  # [code] of scores and of static labels
        scale=(0.8, 1.2),  # [code] one of 0.8, 1, 1.2; here uniform
        # [code] at 0.8 the release crops 680 and enlarges it; here what is smaller than the crop is padded, and not learnt from
        crop=(730, 730),
        flip=True,  # [code]
        network="deeplab_v2",
        # [paper] one stem for both domains; [code] one each: --set "round.network_options={'domain_stem': True}"
        network_options={"form": "bida", "imagenet": True},
        batch_size=2,  # [code] 2 of each domain
        optimiser=sgd,
        loop=LoopSettings(
            # [code] 2 epochs of 5002 steps a round; the rate is made for 1.2 of that and starts anew in every round
            steps=10_004,
            schedule_steps=12_005,  # [code]
            save_every=1_000,  # ours; the release validates every 300 or 1500 steps
        ),
        bida=BiDASettings(),  # [code] and, where it has nothing, [slides]; T, lambda of the averages: ours
        pseudo=PseudoLabelSettings(label_share=0.1, cap=1.0, picture_share=0.1),  # [code]
        workers=4,  # ours
        colours_on="device",
    )
    source = replace(
        each,
        method="source-only",
        source_size=(720, 1310),  # [code] of the source-only configuration: short side 720, crop 600
        crop=(600, 600),  # [code]
        # the start files are not released, nor how long they were trained: ours, AdaptSegNet's rate
        optimiser=replace(sgd, lr=2.5e-4),
        loop=LoopSettings(steps=60_000, schedule_steps=60_000, save_every=1_000),  # ours
    )
    return {"source": source, "labels": each, "round": each}


def _adaptsegnet(method: str) -> Recipe:
    """AdaptSegNet's multi-level ResNet-101 setting; the controls and the oracle differ in the method alone."""
    return Recipe(
        name="gta5_cityscapes",
        method=method,
        space="cityscapes19",
        source_size=(720, 1280),  # [code] whole picture, no crop
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code] logits then go to the label's 1024x2048
        flip=False,  # [code] the mirror and scale flags are accepted and ignored
        network="deeplab_v2",
        # [paper] four ASPP branches are summed; the released forward stops after two: add "aspp_branches": 2 for its files
        # [code] starts from ImageNet and COCO (by users of it 42.0 mIoU, from ImageNet alone 40.6; paper 42.4), which
        # cannot be shipped: --set "network_options={'imagenet': 'DeepLab_resnet_pretrained_init-f81d91e8.pth'}"
        network_options={"form": "adaptsegnet", "imagenet": True},
        batch_size=1,  # [code]
        optimiser=OptimiserSettings(
            optimiser="sgd",  # [code]
            lr=2.5e-4,  # [code]
            head_factor=10.0,  # [code]
            # [code] lists backbone weights three times, which makes its rate 7.5e-4: --set published_duplicates=yes
            published_duplicates=False,
            momentum=0.9,  # [code] without Nesterov
            weight_decay=5e-4,  # [code]
        ),
        loop=LoopSettings(
            steps=150_000,  # [code] stops early ...
            schedule_steps=250_000,  # [code] ... of a schedule of this length
            power=0.9,  # [code]
            accumulate=1,  # [code] iter_size
            save_every=5_000,  # [code]
        ),
        adaptsegnet=AdaptSegNetSettings(
            levels="multi",
            gan="vanilla",
            # the paper's and the code's; its README advises half and a quarter of them for torch >= 0.4:
            # --set lambda_adv=0.0005 --set lambda_adv_aux=0.00005
            lambda_adv=0.001,  # [code]
            lambda_adv_aux=0.0002,  # [code]
            lambda_seg_aux=0.1,  # [code]
            discriminator_lr=1e-4,  # [code] Adam
            discriminator_betas=(0.9, 0.99),  # [code]
        ),
        workers=4,  # [code]
        colours_on="device",
    )
