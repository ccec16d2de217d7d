"""All results on one page and in one figure: docs/results.md and notebooks/figures/results.png, from results/*.json.

    python -m benchmarks.results_page       the same result files give the same page and the same figure

A new result file needs one `Result` in RESULTS: title, text before and after its table, and its lines in the figure; those of
OWN_PAGES have a page instead. Numbers in the texts are fields such as {proca_ablation.gain[F+O]}, filled from the files: no
number is typed twice.
"""

import argparse
import hashlib
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.last_slide import tables
from benchmarks.ledger import results
from benchmarks.measuring import gain_cells, png
from benchmarks.simclr_crops import BUDGETS
from benchmarks.simclr_crops import table as crops_table
from course_lib.classroom.figures.style import styled
from course_lib.experiments.looks import label_table
from course_lib.experiments.paired import differences, half_interval
from course_lib.experiments.table import table
from course_lib.files import write_whole
from course_lib.recipes import PAPERS

HERE = Path(__file__).resolve().parent
PAGE, FIGURE = HERE.parent / "docs" / "results.md", HERE.parent / "notebooks" / "figures" / "results.png"

OWN_PAGES = {  # first words of result files -> title, and the page that shows them instead of a section here
    "contrast_": ("What contrast adds to a mean teacher", "what_contrast_adds.md"),
    "few_labels_": ("Label 20 pictures, or adapt?", "few_labels.md"),
}

FAMILIES = {  # of methods: colour (Okabe and Ito: told apart by colour-blind readers too) and marker
    "AdaptSegNet": ("#D55E00", "s"),
    "SimCLR": ("#CC79A7", "D"),
    "ProCA": ("#0072B2", "o"),
    "BiDA": ("#009E73", "^"),
    "DACS": ("#56B4E9", "P"),
    "control": ("#6b6b6b", "v"),
}


@dataclass(frozen=True)
class Group:
    """Lines of the figure with one start, augmentation and number of steps, which `trained` names; their control has the same,
    or with `equal_compute` as many network passes as the line."""

    title: str
    trained: str
    equal_compute: bool = False

    @property
    def words(self) -> str:
        return self.trained + ", control of equal compute" * self.equal_compute


PLAIN, STRONG = "no colour augmentation", "strong colour augmentation"
GROUPS = {
    "ministreet": Group("MiniStreet, game → camera", f"{PLAIN}, 400 + 300 steps"),
    "crops": Group("MiniStreet, game → camera", "source-only from random weights, 200 steps"),
    "ministreet, strong": Group("MiniStreet, game → camera", f"{STRONG}, 700 + 300 steps"),
    "ministreet, equal compute": Group("MiniStreet, game → camera", f"{STRONG}, 700 + 300 steps", equal_compute=True),
    "ministreet, long": Group("MiniStreet, game → camera", f"{STRONG}, 700 + 1500 steps", equal_compute=True),
    "synthia, strong": Group("MiniStreet, game in SYNTHIA's layout → camera", f"{STRONG}, 700 + 300 steps"),
    "dusk": Group("CamVid, day → dusk", f"{PLAIN}, 300 + 200 steps"),
    "dusk, strong": Group("CamVid, day → dusk", f"{STRONG}, 300 + 200 steps"),
    "dusk, equal compute": Group("CamVid, day → dusk", f"{STRONG}, 300 + 200 steps", equal_compute=True),
    "photographs": Group("MiniStreet, game → CamVid, day", f"{PLAIN}, 300 + 200 steps"),
    "photographs, strong": Group("MiniStreet, game → CamVid, day", f"{STRONG}, 300 + 200 steps"),
    "photographs, equal compute": Group(
        "MiniStreet, game → CamVid, day", f"{STRONG}, 500 + 200 or 300 steps", equal_compute=True
    ),
}


@dataclass(frozen=True)
class Line:
    """One line of the figure: a row of the result file."""

    row: str
    label: str
    family: str


@dataclass(frozen=True)
class Result:
    """The place of one result file: its section of the page, and its lines in a group of the figure."""

    file: str
    title: str
    before: str
    after: str
    group: str
    lines: tuple[Line, ...]
    control: str | None = "source-only"  # of its lines; None: each row's own


PHOTOMETRIC = Line("source-only + photometric", "colour augmentation, equal compute", "control")
BN_CONTROL = Line("bn-control", "target statistics only (bn-control)", "control")
ADAPTSEGNET = Line("adaptsegnet", "AdaptSegNet", "AdaptSegNet")
CONTRAST = Line("F+O", "ProCA, contrast alone", "ProCA")
PROCA = Line("F+O, Ada-ST", "ProCA, contrast + self-training", "ProCA")
MAIN, HALF = "class-wise, half unmixed, rare classes first", "class-wise, half of the pictures unmixed"
MAIN_PHOTOGRAPHS, SAMPLED = "class-wise, rare class sampling", "source-only, 3.5 x compute, rare class sampling"
SAMPLED_DUSK = "source-only, 2.33 x compute, rare class sampling"
SAMPLED_CONTROL = Line(SAMPLED, "rare class sampling, no target pictures", "control")
BASE = Line("base", "BiDA, static labels alone (base)", "BiDA")
BIDA = Line("base, FC, BC, dynamic", "BiDA", "BiDA")


def beside_the_mean_teacher(main: str, *controls: Line) -> tuple[Line, ...]:
    """The lines of a table of the mean teacher; `main`: its row named beforehand."""
    return (
        Line("AdaptSegNet", "AdaptSegNet", "AdaptSegNet"),
        Line("ProCA", "ProCA, contrast + self-training", "ProCA"),
        Line("BiDA", "BiDA", "BiDA"),
        *controls,
        Line("one weight, as published", "DACS, one weight (as published)", "DACS"),
        Line("class-wise", "DACS, class-wise labels", "DACS"),
        Line(main, "DACS, the row named beforehand", "DACS"),
    )


RESULTS = (
    Result(
        "ministreet_3seeds",
        "MiniStreet, game look → camera look: AdaptSegNet",
        "19 classes, three seeds that were not used to choose anything. MiniStreet's network has frozen normalisation "
        "layers, so that `bn-control` is the network of the first row.",
        "AdaptSegNet gains {ministreet_3seeds.gain[adaptsegnet]} points and improves every seed. Strong colour augmentation, "
        "which never sees the target, gains more at the same compute: {ministreet_3seeds.gain[source-only + photometric]}. "
        "Much of the gap between these two looks is colour, as between many real domains. A method has to be compared with "
        "that row.",
        "ministreet",
        (PHOTOMETRIC, ADAPTSEGNET),
    ),
    Result(
        "simclr_crops",
        "MiniStreet, object crops: SimCLR",
        "SimCLR on 4000 object crops without labels: probes of its features with few labels, and the same labels used to "
        "train from random weights. Accuracy in % over 8 classes, seeds 0, 1, 2. The second table is segmentation of "
        "MiniStreet, trained on the game look only, from random weights and from the pre-trained backbone; mIoU in % after "
        "50 and 200 steps.",
        "The linear probe is {simclr_crops.over[random, linear]} points above random features and "
        "{simclr_crops.over[from scratch]} points above training with the same labels alone. Training on the same labels "
        "with augmentation comes close to the probe with two labels per class, and is better with five and twenty. As a start "
        "for segmentation the backbone changes little here ({simclr_crops.gain[simclr]} points on the camera look after "
        "200 steps).",
        "crops",
        (Line("simclr", "SimCLR backbone as the start", "SimCLR"),),
        control="random",
    ),
    Result(
        "proca_ablation",
        "MiniStreet, game look → camera look: ProCA's parts",
        "19 classes, seeds 0, 1, 2. All rows have the same start of 700 source-only steps and the same number of steps after "
        "it, and all but one the same strong colour augmentation, so that the first row is the control. *paper*: "
        "GTA5 → Cityscapes. [How the constants were found](../benchmarks/results/proca_design.md).",
        "Contrast adds {proca_ablation.gain[F+O]} points, self-training alone {proca_ablation.gain[Ada-ST]}, contrast followed "
        "by self-training {proca_ablation.gain[F+O, Ada-ST]}. Contrast between features alone gives {proca_ablation.gain[F]}, "
        "between outputs alone {proca_ablation.gain[O]}; with fixed prototypes it is "
        "{proca_ablation.gain[F+O, fixed prototypes]}, with prototypes of the source alone "
        "{proca_ablation.gain[F+O, source prototypes]}, and with the published mean over pixels "
        "{proca_ablation.gain[F+O, mean over pixels]}. Without augmentation source-only reaches "
        "{proca_ablation.miou[source-only, no augmentation]}. These gains need two changes to the released method: the mean is "
        "taken over classes and not over pixels, and the pseudo-labels are files written by the network of the source stage, "
        "not by the network in training. Without them the method loses points or collapses on this pair.",
        "ministreet, strong",
        (
            ADAPTSEGNET,
            Line("F+O, mean over pixels", "ProCA, contrast, mean over pixels (as published)", "ProCA"),
            Line("Ada-ST", "ProCA, self-training alone", "ProCA"),
            CONTRAST,
            PROCA,
        ),
    ),
    Result(
        "bida_ablation",
        "MiniStreet, game look → camera look: BiDA's parts",
        "19 classes, seeds 0, 1, 2; start, steps and augmentation of ProCA's table. *paper*: GTA5 → Cityscapes. [How the "
        "constants were found](../benchmarks/results/bida_design.md).",
        "The base, cross-entropy on static labels that are renewed once, gains {bida_ablation.gain[base]} points, the whole "
        "method {bida_ablation.gain[base, FC, BC, dynamic]}. On this pair the labels bring the gain; what contrast and dynamic "
        "labels add is smaller than the spread over seeds.\n\n"
        "Pseudo-labels of the whole method after the last round (mean of the three seeds; the paper does not say where and "
        "when it measured its own):\n\n{bida_ablation.label_kinds}",
        "ministreet, strong",
        (BASE, BIDA),
    ),
    Result(
        "mean_teacher_ministreet",
        "MiniStreet, game look → camera look: the mean teacher beside the other methods",
        "19 classes, seeds 0 to 4. All rows have one start of 700 source-only steps, one network and strong colour "
        "augmentation; *five blocks frozen* has the network of the tables above. The gain of a row is over source-only with "
        f"as many network passes (forward 1, backward 2). The row *{MAIN}* was named before a reported seed ran. [How the "
        "constants were found](../benchmarks/results/mean_teacher_design.md).",
        "The row named beforehand gains {mean_teacher_ministreet.gain[" + MAIN + "]} points, class-wise labels alone "
        "{mean_teacher_ministreet.gain[class-wise]}, the published weight "
        "{mean_teacher_ministreet.gain[one weight, as published]}. ProCA gains {mean_teacher_ministreet.gain[ProCA]}, BiDA "
        "{mean_teacher_ministreet.gain[BiDA]} over a control with their compute, and AdaptSegNet "
        "{mean_teacher_ministreet.gain[AdaptSegNet]}; with five blocks frozen, as in their own tables, ProCA "
        "{mean_teacher_ministreet.gain[ProCA, five blocks frozen]} and BiDA "
        "{mean_teacher_ministreet.gain[BiDA, five blocks frozen]}.",
        "ministreet, equal compute",
        beside_the_mean_teacher(MAIN),
        control=None,
    ),
    Result(
        "mean_teacher_ministreet_long",
        "MiniStreet, game look → camera look: five times the steps",
        "The three rows of the table above with the highest mIoU, for 1,500 steps in place of 300; seeds 0 to 2, which took "
        "part in choosing them. Start, network and augmentation are the same; the controls trained for 3,000 and 3,500 steps. "
        "Checkpoints are written every 1,000 steps and at the end: two for a row, three or four for a control. Of these, the "
        "one whose predictions on 100 unlabelled target pictures have the most information is scored.",
        "**With five times the steps the mean teacher gains less, and ProCA more.** The row named beforehand gains "
        f"{{mean_teacher_ministreet_long.gain[{MAIN}]}}, *half of the pictures unmixed* "
        f"{{mean_teacher_ministreet_long.gain[{HALF}]}}, ProCA {{mean_teacher_ministreet_long.gain[ProCA]}}; in the table "
        f"above, after 300 steps and with two more seeds, they gain {{mean_teacher_ministreet.gain[{MAIN}]}}, "
        f"{{mean_teacher_ministreet.gain[{HALF}]}} and {{mean_teacher_ministreet.gain[ProCA]}}. The mean over classes does not "
        "show what goes wrong. Against the control *building* "
        f"changes by {{mean_teacher_ministreet_long.of_class[{MAIN}][building]}} and "
        f"{{mean_teacher_ministreet_long.of_class[{HALF}][building]}} points of IoU (after 300 steps by "
        f"{{mean_teacher_ministreet.of_class[{MAIN}][building]}} and {{mean_teacher_ministreet.of_class[{HALF}][building]}}), "
        f"*train* by {{mean_teacher_ministreet_long.of_class[{MAIN}][train]}} and "
        f"{{mean_teacher_ministreet_long.of_class[{HALF}][train]}}. [Two fifths of the buildings' pixels are predicted as "
        "*pole*](../benchmarks/results/mean_teacher_ministreet_long_confused.md); it is 5 % of them with source-only, 9 % with "
        "ProCA. A threshold for each class keeps the surest half of what is predicted as that class, right or wrong. Where "
        "source-only predicts *pole*, half of that surest half is right, and the area is little more than the true one; with "
        "the mean teacher the area is five times the true one, and about one in seven of the surest half is right. So a class "
        "that is predicted too often stays so, and grows.",
        "ministreet, long",
        (
            Line("ProCA", "ProCA, contrast + self-training", "ProCA"),
            Line(HALF, "DACS, class-wise labels, half unmixed", "DACS"),
            Line(MAIN, "DACS, the row named beforehand", "DACS"),
        ),
        control=None,
    ),
    Result(
        "daformer_ministreet",
        "MiniStreet, game look → camera look: feature distance, masks and two resolutions",
        "19 classes, seeds 0 to 4, start and augmentation of the table above. Each row adds one idea of DAFormer, MIC or HRDA "
        f"to the *main row*, which is *{MAIN}*. Constants and rows were named after "
        "[the development seeds](../benchmarks/results/daformer_ministreet_design.md), where none was above the main row. The "
        "gain of a row is over source-only with its network and as many network passes.",
        "**None of the three ideas adds to the main row** ({daformer_ministreet.miou[main row]}) in 300 steps: with the "
        "feature distance it is {daformer_ministreet.miou[+ feature distance 0.005]}, with masks "
        "{daformer_ministreet.miou[+ masks of 32, half hidden, weight 0.3]}, and both cost more passes. With the published "
        "weight of masks, 1, the main row lost six points on the development seeds; longer runs were not tried. Two "
        "resolutions are another network. Source-only on it reaches "
        "{daformer_ministreet.miou[source-only, 3.67 x compute, two resolutions]}, more than the main row on one resolution, "
        "at fewer passes; the mean teacher on it changes that by {daformer_ministreet.gain[+ two resolutions]}. The teacher's "
        "labels are not the cause: [at the start](../benchmarks/results/daformer_labels.md) they are as often right as at one "
        "resolution. What else differs is that the student reads the mixed pictures at half of their size, where what is "
        "pasted has a quarter of the pixels; whether that is the cause was not measured.",
        "ministreet, equal compute",
        (
            Line("+ feature distance 0.005", "DACS, the row named beforehand, + feature distance", "DACS"),
            Line("+ masks of 32, half hidden, weight 0.3", "the same + masks", "DACS"),
            Line("+ two resolutions", "the same on two resolutions", "DACS"),
        ),
        control=None,
    ),
    Result(
        "bida_ablation_synthia",
        "MiniStreet in SYNTHIA's layout → camera look: BiDA's parts",
        "The same pictures with SYNTHIA's 16 classes; seeds 0, 1, 2; start, steps and augmentation of ProCA's table. *paper*: "
        "SYNTHIA → Cityscapes. [How the constants were found](../benchmarks/results/bida_design.md).",
        "The whole method again gains more than the base, but the gains are about half as large: "
        "{bida_ablation_synthia.gain[base]} for the base, {bida_ablation_synthia.gain[base, FC, BC, dynamic]} for the whole "
        "method.",
        "synthia, strong",
        (ADAPTSEGNET, BASE, BIDA),
    ),
    Result(
        "camvid_dusk",
        "CamVid, day → dusk: AdaptSegNet",
        "Photographs, 11 classes, seeds 2, 3, 4.",
        "AdaptSegNet gains {camvid_dusk.gain[adaptsegnet]} points. The control that only passes target pictures through the "
        "batch normalisation layers gains {camvid_dusk.gain[bn-control]}: nearly all of what looks like adversarial adaptation "
        "here is normalisation statistics. The standard deviation of source-only over the seeds is "
        "{camvid_dusk.spread[source-only]} points.",
        "dusk",
        (PHOTOMETRIC, BN_CONTROL, ADAPTSEGNET),
    ),
    Result(
        "camvid_dusk_proca",
        "CamVid, day → dusk: ProCA",
        "Constants as found on MiniStreet; two seeds only. All rows have the same augmented start and the same strong colour "
        "augmentation.",
        "Contrast adds {camvid_dusk_proca.gain[F+O]} points to source-only with the same augmentation and steps, with "
        "self-training {camvid_dusk_proca.gain[F+O, Ada-ST]}.",
        "dusk, strong",
        (CONTRAST, PROCA),
    ),
    Result(
        "camvid_dusk_bida",
        "CamVid, day → dusk: BiDA",
        "As for ProCA; two seeds only.",
        "BiDA gains {camvid_dusk_bida.gain[base, FC, BC, dynamic]}. This table has no control of equal compute. The nearest "
        "is *source-only + photometric* of AdaptSegNet's table: twice the steps from a start without augmentation reach "
        "{camvid_dusk.seed[source-only + photometric][2]} and {camvid_dusk.seed[source-only + photometric][3]} on these two "
        "seeds.",
        "dusk, strong",
        (BIDA,),
    ),
    Result(
        "ministreet_camvid",
        "MiniStreet → CamVid, day: AdaptSegNet",
        "From the synthetic game look to photographs, 11 classes, two seeds only.",
        "As from day to dusk, AdaptSegNet ({ministreet_camvid.gain[adaptsegnet]}) gains hardly more than the normalisation "
        "control ({ministreet_camvid.gain[bn-control]}).",
        "photographs",
        (PHOTOMETRIC, BN_CONTROL, ADAPTSEGNET),
    ),
    Result(
        "ministreet_camvid_proca",
        "MiniStreet → CamVid, day: ProCA",
        "Constants as found on MiniStreet; two seeds only. All rows have the same augmented start and the same strong colour "
        "augmentation.",
        "Contrast adds {ministreet_camvid_proca.gain[F+O]}, with self-training {ministreet_camvid_proca.gain[F+O, Ada-ST]}.",
        "photographs, strong",
        (CONTRAST, PROCA),
    ),
    Result(
        "ministreet_camvid_bida",
        "MiniStreet → CamVid, day: BiDA",
        "As for ProCA; two seeds only.",
        "BiDA changes the score by {ministreet_camvid_bida.gain[base, FC, BC, dynamic]}. The pseudo-labels explain it: in the "
        "last label files {ministreet_camvid_bida.right[base, FC, BC, dynamic]} % of the labelled pixels are right (ProCA: "
        "{ministreet_camvid_proca.right[F+O, Ada-ST]} %), from day to dusk {camvid_dusk_bida.right[base, FC, BC, dynamic]} %; "
        "a network learns wrong labels as easily as right ones. *Source-only + photometric* with twice the steps reaches "
        "{ministreet_camvid.seed[source-only + photometric][2]} and {ministreet_camvid.seed[source-only + photometric][3]} on "
        "these two seeds.",
        "photographs, strong",
        (BIDA,),
    ),
    Result(
        "mean_teacher_ministreet_camvid",
        "MiniStreet → CamVid, day: the mean teacher beside the other methods",
        "11 classes, seeds 0 to 4. All rows have one start of 500 source-only steps, one network and strong colour "
        "augmentation; the gain of a row is over source-only with as many network passes. The row "
        f"*{MAIN_PHOTOGRAPHS}* was named before a reported seed ran, from the rows of "
        "[this table](../benchmarks/results/mean_teacher_design.md).",
        f"The row named beforehand gains {{mean_teacher_ministreet_camvid.gain[{MAIN_PHOTOGRAPHS}]}} points and improves every "
        "seed, class-wise labels alone {mean_teacher_ministreet_camvid.gain[class-wise]}; source-only of the same compute "
        f"gains {{mean_teacher_ministreet_camvid.gain[{SAMPLED}]}} by the rare class sampling alone. One weight for all "
        "pixels, as published, changes the score by {mean_teacher_ministreet_camvid.gain[one weight, as published]}. "
        "ProCA gains {mean_teacher_ministreet_camvid.gain[ProCA]}, AdaptSegNet "
        "{mean_teacher_ministreet_camvid.gain[AdaptSegNet]}. BiDA changes the score by "
        "{mean_teacher_ministreet_camvid.gain[BiDA]}, as in its own table. Wrong labels alone do not explain that here: "
        "{mean_teacher_ministreet_camvid.right[BiDA]} % of the labelled pixels in its last label files are right, of ProCA's "
        "{mean_teacher_ministreet_camvid.right[ProCA]} %.",
        "photographs, equal compute",
        beside_the_mean_teacher(MAIN_PHOTOGRAPHS, SAMPLED_CONTROL),
        control=None,
    ),
    Result(
        "daformer_ministreet_camvid",
        "MiniStreet → CamVid, day: feature distance on the mean teacher",
        "11 classes, seeds 0 to 4, start and augmentation of the table above; the *main row* is "
        f"*{MAIN_PHOTOGRAPHS}*. The best of DAFormer's, MIC's and HRDA's ideas on MiniStreet's development seeds, with the "
        "constants of that pair: nothing was chosen on photographs.",
        "The feature distance changes the main row's {daformer_ministreet_camvid.miou[main row]} to "
        "{daformer_ministreet_camvid.miou[+ feature distance 0.005]}; over source-only with its own compute it gains "
        "{daformer_ministreet_camvid.gain[+ feature distance 0.005]}, the main row "
        "{daformer_ministreet_camvid.gain[main row]}.",
        "photographs, equal compute",
        (Line("+ feature distance 0.005", "DACS, the row named beforehand, + feature distance", "DACS"),),
        control=None,
    ),
    Result(
        "mean_teacher_camvid_dusk",
        "CamVid, day → dusk: the mean teacher beside the other methods",
        "11 classes, seeds 0 to 4, one drive by day and one at dusk: few pictures, whose layouts and classes hardly differ. "
        "All rows have one start of 300 source-only steps, one network and strong colour augmentation; the gain of a row is "
        "over source-only with as many network passes. The row named beforehand is that of the other pair of photographs; "
        "nothing was chosen here.",
        f"**Here no method gains clearly over its control.** The row named beforehand changes the score by "
        f"{{mean_teacher_camvid_dusk.gain[{MAIN_PHOTOGRAPHS}]}}. Source-only with the same rare class sampling and no target "
        f"pictures gains {{mean_teacher_camvid_dusk.gain[{SAMPLED_DUSK}]}}: beside that control the mean teacher loses on "
        "every seed. AdaptSegNet changes the score by {mean_teacher_camvid_dusk.gain[AdaptSegNet]}, ProCA by "
        "{mean_teacher_camvid_dusk.gain[ProCA]}, BiDA by {mean_teacher_camvid_dusk.gain[BiDA]}. With strong colours the "
        "start already has most of the possible gain: the oracle is {mean_teacher_camvid_dusk.gain[target-only (oracle)]} "
        "above source-only of equal steps.",
        "dusk, equal compute",
        beside_the_mean_teacher(
            MAIN_PHOTOGRAPHS, Line(SAMPLED_DUSK, "rare class sampling, no target pictures", "control")
        ),
        control=None,
    ),
)

HEAD = """# Results

Written by `python -m benchmarks.results_page` from `benchmarks/results/*.json`; do not edit it by hand.

**Everything on this page was measured on CPUs, with MiniStreet and a part of CamVid. Nothing was trained on the real GTA5,
SYNTHIA or Cityscapes, and nothing ran on a GPU.** The columns *paper* are numbers of the papers, on other data and with other
networks; they show which row of the paper corresponds to a row here, and the scores cannot be compared.

Much of what is called adaptation is augmentation, longer training or normalisation statistics. So every comparison has its
controls: source-only with the same steps, source-only with strong colour augmentation at equal compute, target pictures in the
normalisation layers without a loss (`bn-control`), and the oracle, which is trained on the target's labels.

## All results in one figure

![Gain of each method over its control, task by task](../notebooks/figures/results.png)

{caption}

{clear} The numbers behind the figure:

{gains}

## How to read the tables

mIoU is in % over all classes, mean ± standard deviation over seeds. *gain*: over the first row. *closes*: part of the distance
from source-only to the oracle. *common*: mIoU over the classes above 0.5 % of the labelled pixels. *statistics*: of the
normalisation layers at test time, as training left them (running) or re-estimated (target). *train s*: seconds on two busy
cores; scores do not depend on that. The link below each title leads to the same table with the meaning of every row and the
command that made it.
"""

SLIDE = """## The ten systems of the seminar's last slide

What each adds, its published score (mIoU on Cityscapes' validation pictures), whether it trains here, and what users of the
authors' code have reported. Nothing of this was measured here. Six of the ten are a mean teacher with class mixing (`dacs`) and
one or two things more. Backbones, starts, picture sizes and the choice of the checkpoint differ, so rows do not compare.
An asterisk: second-hand, not checked against the paper.

{tables}
"""

CAPTION = (
    "Gain in mIoU points over the control with the same seed. The control is source-only with the same start, the same colour "
    "augmentation of the source pictures and the same number of steps (a + b: steps of the common source-only start, then of "
    "each row); for SimCLR it is the same training from random weights. Large mark: mean; small dots: seeds; bar: 95 % "
    "t-interval of the mean, for three seeds or more (two are too few for an interval). Where a heading says *control of equal "
    "compute*, the control has as many network passes as the row. In the other groups it has as many steps, and a step of a "
    "method that trains on two domains costs about two steps of its control; only the grey *colour augmentation, equal "
    "compute* has the compute of such a method there: twice the steps, strong colour augmentation, no target pictures."
)


# ---- gains of a result file -----------------------------------------------------------------------------------------


def scores(content: Mapping[str, Any], row: str) -> dict[str, float]:
    """seed -> mIoU in % of a row; of SimCLR's file, of a start of segmentation, on the camera look after 200 steps."""
    if "bridge" in content:
        return {seed: run["camera after 200"] for seed, run in content["bridge"][row].items()}
    return {seed: 100 * run["miou"] for seed, run in content["rows"][row]["seeds"].items()}


def paired(content: Mapping[str, Any], row: str, control: str) -> dict[str, float]:
    """seed -> points that a row gains over the control with the same seed."""
    base, own = scores(content, control), scores(content, row)
    if base.keys() != own.keys():
        raise ValueError(f"Rows {row!r} and {control!r} have the seeds {list(own)} and {list(base)}; a gain needs the same.")
    return {seed: own[seed] - base[seed] for seed in own}


def gain_points(content: Mapping[str, Any], row: str, control: str | None) -> dict[str, float]:
    """seed -> points of a row over `control`, or with None over the row that it names (itself where it names none)."""
    return paired(content, row, control or content["rows"][row].get("control") or row)


def class_gains(content: Mapping[str, Any], row: str, control: str | None) -> dict[str, str]:
    """class -> points of IoU that a row gains over its control, the mean over seeds, as text."""
    found = differences(content, row, control or content["rows"][row].get("control") or row)
    return {each.name: f"{each.mean:+.0f}" for each in found}


@dataclass(frozen=True)
class Gain:
    """A line of the figure with its numbers: points over the control, by seed."""

    line: Line
    file: str
    group: str
    points: dict[str, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.points.values())

    @property
    def half(self) -> float | None:
        """Half of the 95 % interval of the mean: t s / sqrt(n); None for fewer than three seeds.

        With two (t = 12.7) it would be wider than the figure.
        """
        return half_interval(list(self.points.values())) if len(self.points) > 2 else None


def gains(files: Mapping[str, dict[str, Any]]) -> list[Gain]:
    """All lines of the figure, group by group."""
    found = [
        Gain(line, result.file, result.group, gain_points(files[result.file], line.row, result.control))
        for result in RESULTS
        for line in result.lines
    ]
    return sorted(found, key=lambda gain: list(GROUPS).index(gain.group))


def oracle(files: Mapping[str, dict[str, Any]], group: str) -> float | None:
    """Points of the oracle over the group's control; None if no file of the group has one."""
    for result in RESULTS:
        if result.group == group and "target-only (oracle)" in files[result.file].get("rows", {}):
            return statistics.fmean(gain_points(files[result.file], "target-only (oracle)", result.control).values())
    return None


# ---- the page -------------------------------------------------------------------------------------------------------


class Numbers:
    """What the fields of a text can name of one file, as text; row by row, except `over` and `label_kinds`."""

    def __init__(self, content: dict[str, Any], control: str | None):
        names = list(content["bridge"] if "bridge" in content else content["rows"])
        by_row = {name: scores(content, name) for name in names}
        self.seed = {name: {int(seed): f"{value:.1f}" for seed, value in row.items()} for name, row in by_row.items()}
        self.miou = {name: f"{statistics.fmean(row.values()):.1f}" for name, row in by_row.items()}
        self.spread = {name: f"{statistics.stdev(row.values()):.1f}" for name, row in by_row.items()}  # standard deviation
        self.gain = {name: f"{statistics.fmean(gain_points(content, name, control).values()):+.1f}" for name in names}
        self.of_class = {name: class_gains(content, name, control) for name in content.get("rows", {})}
        self.right, self.label_kinds, self.over = {}, "", {}
        for name, row in content.get("rows", {}).items():
            runs = list(row["seeds"].values())
            if all(run.get("labels") for run in runs):  # accuracy of the last label files, in %
                self.right[name] = f"{100 * statistics.fmean(run['labels']['accuracy'] for run in runs):.0f}"
            if all(run.get("label_kinds") for run in runs):  # of the last such row: the whole method
                kinds = [run["label_kinds"] for run in runs]
                means = {
                    kind: {key: statistics.fmean(one[kind][key] for one in kinds) for key in ("density", "accuracy")}
                    for kind in kinds[0]
                }
                self.label_kinds = label_table(means, PAPERS["bida"].label_kinds).rstrip()
        if "bridge" in content:  # how far the linear probe of SimCLR is above another way, from the least to the most
            runs = list(content["seeds"].values())
            ways = [name for name in runs[0][str(BUDGETS[0])] if name != "simclr, linear"]
            for way in ways:
                points = [statistics.fmean(run[str(b)]["simclr, linear"] - run[str(b)][way] for run in runs) for b in BUDGETS]
                self.over[way] = f"{min(points):.0f} to {max(points):.0f}"


def only_tables(markdown: str) -> str:
    """The tables of a Markdown text, and nothing else."""
    blocks = [block for block in markdown.strip().split("\n\n") if block.startswith("|")]
    return "\n\n".join(blocks)


def gains_table(found: list[Gain]) -> str:
    """The numbers of the figure as a Markdown table."""
    lines = ["| task | row | gain | 95 % interval | by seed | from |", "|---|---|---|---|---|---|"]
    for gain in found:
        group = GROUPS[gain.group]
        lines.append(f"| {group.title}; {group.words} | {gain.line.label} | {gain_cells(gain.points)} | "
                     f"[{gain.file}](../benchmarks/results/{gain.file}.md) |")  # fmt: skip
    return "\n".join(lines)


def clear_gains(found: list[Gain]) -> str:
    """A sentence: how many intervals of methods lie on one side of zero."""
    judged = [gain for gain in found if gain.half is not None and gain.line.family != "control"]
    above = sum(gain.mean - gain.half > 0 for gain in judged)
    below = sum(gain.mean + gain.half < 0 for gain in judged)
    return (
        f"Three or five seeds give wide intervals: of {len(judged)} intervals of methods {above} lie above zero, {below} below "
        "(not corrected for their number)."
    )


def here(files: Iterable[str]) -> list[str]:
    """The result files that have their section on this page."""
    return [name for name in files if not name.startswith(tuple(OWN_PAGES))]


def other_pages(files: Collection[str]) -> str:
    """A sentence that links the pages of the other result files, nothing where there are none."""
    pages = [page for first, page in OWN_PAGES.items() if any(name.startswith(first) for name in files)]
    if not pages:
        return ""
    return "On pages of their own: " + ", ".join(f"[{title}]({path})" for title, path in pages) + ".\n"


def page(files: Mapping[str, dict[str, Any]]) -> str:
    """docs/results.md: the figure, then every result file without a page of its own, with its table and text."""
    placed = [result.file for result in RESULTS]
    if sorted(placed) != sorted(here(files)):
        wrong = sorted(set(placed) ^ set(here(files)))
        raise ValueError(f"Result files and RESULTS differ in {wrong}: one Result for each file.")
    found = gains(files)
    numbers = {result.file: Numbers(files[result.file], result.control) for result in RESULTS}
    parts = [HEAD.format(caption=CAPTION, clear=clear_gains(found), gains=gains_table(found))]
    parts += [text] if (text := other_pages(files)) else []
    for result in RESULTS:
        content = files[result.file]
        written = crops_table(content) if "bridge" in content else table(content)
        parts.append(
            f"## {result.title}\n\n[Rows and command](../benchmarks/results/{result.file}.md). "
            f"{result.before.format(**numbers)}\n\n{only_tables(written)}\n\n{result.after.format(**numbers)}\n"
        )
    return "\n".join([*parts, SLIDE.format(tables=tables())])


# ---- the figure -----------------------------------------------------------------------------------------------------


def heading(files: Mapping[str, dict[str, Any]], group: str, seeds: int) -> str:
    """The words above a group's lines."""
    top = oracle(files, group)
    words = [GROUPS[group].words, f"{seeds} seeds", *([f"oracle {top:+.1f}"] if top is not None else [])]
    return "; ".join(words)


@styled
def draw(files: Mapping[str, dict[str, Any]]) -> Figure:
    """A line for each row: every seed's gain, their mean, and its interval; a heading for each group.

    Left of the axes the names, right of them the numbers; y counts lines from the top.
    """
    found, left, right, inch = gains(files), -0.645, 1.235, 0.195  # left, right: in widths of the axes; inch: height of a line
    heads, places, y = {}, [], 0.0
    for gain in found:
        if gain.group not in heads:
            heads[gain.group] = y + 0.5 * bool(heads)
            y = heads[gain.group] + 1
        places.append(y)
        y += 1
    below, total = 0.72, 0.8 + inch * (y + 0.6)  # inches
    figure = Figure(figsize=(9.0, total))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.35, below / total, 0.525, inch * (y + 0.6) / total))
    axes.set_ylim(y - 0.2, -0.8)
    across = axes.get_yaxis_transform()  # x in widths of the axes, y in lines
    for group, place in heads.items():
        seeds = next(len(gain.points) for gain in found if gain.group == group)
        axes.axhline(place - 0.65, left, right, color="#cccccc", linewidth=0.6, clip_on=False)
        axes.text(left, place, GROUPS[group].title, transform=across, va="center", fontsize=8.5, weight="bold")
        axes.text(right, place, heading(files, group, seeds), transform=across, va="center", ha="right", fontsize=8,
                  color="#555555", bbox={"color": "white", "pad": 1.5})  # fmt: skip
    for y, gain in zip(places, found):
        colour, marker = FAMILIES[gain.line.family]
        axes.text(left + 0.025, y, gain.line.label, transform=across, va="center", fontsize=8.5, color=colour)
        if gain.half is not None:
            axes.plot((gain.mean - gain.half, gain.mean + gain.half), (y, y), color=colour, linewidth=1.6)
        axes.plot(gain.mean, y, marker, color=colour, markersize=7, alpha=0.85)
        axes.plot(list(gain.points.values()), [y] * len(gain.points), "o", markersize=3.2, markerfacecolor="white",
                  markeredgecolor=colour, markeredgewidth=0.9)  # fmt: skip
        shown = f"{gain.mean:+.1f}" + (f" ± {gain.half:.1f}" if gain.half is not None else "")
        axes.text(right, y, shown, transform=across, va="center", ha="right", fontsize=8.5)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("gain over the control, in mIoU points", labelpad=2)
    keys = [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7, label=family)
            for family, (colour, marker) in FAMILIES.items()]  # fmt: skip
    keys.append(Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="", markersize=3.2, label="seed"))
    keys.append(Line2D([], [], color="black", linewidth=1.6, label="95 % interval of the mean"))
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), fontsize=8.5, handletextpad=0.4, columnspacing=1.2)
    return figure


def fingerprint(files: Mapping[str, dict[str, Any]]) -> str:
    """A digest of what the figure shows; it is stored in the PNG, so that a test sees a figure older than its data."""
    headings = [f"{group}: {value}, {oracle(files, group)}" for group, value in GROUPS.items()]
    return hashlib.sha256("\n".join([gains_table(gains(files)), *headings]).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    asked, files = parser.parse_args(), results()
    write_whole(asked.page, page(files))
    write_whole(asked.figure, png(draw(files), 160, Data=fingerprint(files)))
    print(f"{asked.page}, {asked.figure}: {len(files)} result files")


if __name__ == "__main__":
    main()
