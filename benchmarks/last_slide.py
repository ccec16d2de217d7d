"""The ten systems of the seminar's last slide as a table: what each adds, what was published, its method here.

    python -m benchmarks.last_slide

The scores of adaptation are those of `course_lib/recipes/papers/`, with their source there. What users report is from the
issues of the authors' repositories, by number. *: second-hand, not checked against the paper.
"""

from typing import NamedTuple

from course_lib.recipes import PAPERS
from course_lib.terminal import print


class System(NamedTuple):
    """A row."""

    name: str
    method: str  # here
    adds: str
    reported: str  # by users
    few_labels: str = ""  # mIoU with so many labelled pictures of Cityscapes' 2,975


UDA = (
    System("DAFormer (CVPR 2022)", "daformer", "a Transformer, rare class sampling, feature distance",
           "66.1 and 66.2 (issue 23), open for a third user (69)"),
    System("HRDA (ECCV 2022)", "hrda", "a halved picture for context, a window for detail, fused by attention",
           "61, 66.9 and 63.3 (issue 9)"),
    System("MIC (CVPR 2023)", "mic", "labels for hidden parts of target pictures",
           "70.2 (issue 86), 72.2 (4), 72.5 where the class train is lost (9), 74.7 (62)"),
    System("PiPa (ACM MM 2023)", "pipa-hrda", "pixel contrast on the source, patch contrast on the target",
           "the patch loss may not have been applied (issues 3, 14)"),
    System("CLUDA", "cluda-hrda", "contrast of fused features, source and mixed pictures, two resolutions",
           "67.9 on DAFormer, below it (issue 5)"),
    System("SePiCo (TPAMI 2023)", "sepico", "pixels of both domains to class statistics of the source",
           "64 in place of 70 (issue 9)"),
)  # fmt: skip
FEW_LABELS = (
    System("ReCo (ICLR 2022)", "reco", "contrast of hard pixels with class means, negatives from confusable classes",
           "45 with 20 on three seeds (issue 36); 2 to 5 % from machine to machine (the authors)", "49.9* with 20"),
    System("SemiSegContrast (ICCV 2021)", "semiseg",
           "attraction to a memory of features of labelled pixels that are predicted right",
           "about 4 days on a V100 (issue 3)", "64.9 with 100 (DeepLabV3+)"),
    System("GIST and RIST (CRV 2022)", "gist", "stages on human labels or on pseudo-labels alone", "no code was found",
           "58.7 with 100"),
    System("SegSDF (CVPR 2021)", "segsdf", "depth (here given, not from video): transfer, mixing by depth, choice of pictures",
           "weeks on one GPU for all (the authors)", "62.1* with 100"),
)  # fmt: skip


def published(system: System, source: str, classes: str) -> str:
    """The paper's mIoU on Cityscapes, from the paper's file."""
    scores = [score for score in PAPERS[system.method].scores[source] if score.column == "paper"]
    return f"{scores[0].miou[classes]:.1f}" + "*" * ("as it is quoted" in scores[0].source)


def tables() -> str:
    """Both tables as Markdown."""
    lines = ["| system | adds | GTA5, 19 classes | SYNTHIA, 16 | here | users of the release |", "|---|---|---|---|---|---|"]
    for system in UDA:
        gta5, synthia = published(system, "GTA5", "19"), published(system, "SYNTHIA", "16")
        lines.append(f"| {system.name} | {system.adds} | {gta5} | {synthia} | `{system.method}` | {system.reported} |")
    lines += ["", "| system | adds | published | here | users of the release |", "|---|---|---|---|---|"]
    for system in FEW_LABELS:
        lines.append(f"| {system.name} | {system.adds} | {system.few_labels} | `{system.method}` | {system.reported} |")
    return "\n".join(lines)


def main() -> None:
    print(tables())


if __name__ == "__main__":
    main()
