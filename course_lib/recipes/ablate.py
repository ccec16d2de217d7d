"""A paper's ablation as rows of a comparison: what each of its parts adds, beside the paper's own numbers and our controls."""

from dataclasses import replace

from course_lib.recipes import find_named
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.compare import Arm, control_of
from course_lib.recipes.plan import has_published_stages

ABLATIONS = ("proca", "bida")  # papers whose tables of parts the slides show


def ablation_arms(paper: str, recipe_name: str, like: str = "gta5") -> tuple[Arm, ...]:
    """The rows of `paper`'s table, all with equal steps, and the controls with their compute that a gain is taken from.

    Of a recipe with published stages (gta5_cityscapes, synthia_cityscapes) every stage has its published steps, so that rows
    differ in how long they train; the table says how long.

    like: the source of the paper's numbers that stand beside, "gta5" or "synthia" (of ProCA the slides have the first alone;
        beside CamVid none stand).

    >>> [arm.name for arm in ablation_arms("proca", "ministreet")][:4]
    ['source-only', 'source-only, 2 x compute', 'source-only, 1.5 x compute', 'F']
    """
    find_named("paper", paper, ABLATIONS)
    find_named("source", like, ("gta5", "synthia"))
    staged = find_recipe(recipe_name, paper)  # all rows start and are augmented as the paper's stages
    start = (f"start_steps={staged.start_steps}",)
    same = (*start, f"start_photometric={staged.start_photometric}", f"photometric={staged.photometric}")
    rows = _bida(same, like) if paper == "bida" else _proca(start, same)
    rows = _with_controls(rows, recipe_name, same)
    if (paper == "proca" and like == "synthia") or "camvid" in recipe_name:  # the papers have no such table
        rows = tuple(replace(row, published=None) for row in rows)
    return _as_published(rows, paper) if has_published_stages(recipe_name) else rows


def _with_controls(rows: tuple[Arm, ...], recipe_name: str, same: tuple[str, ...]) -> tuple[Arm, ...]:
    """The rows, each method with the control that has its compute; rows with one cost share it. Where a recipe has published
    stages, a control is the source stage alone: longer training there would take days, so the table marks unequal compute."""
    if has_published_stages(recipe_name):
        first, *others = rows
        return (first, *(replace(row, control=row.control or first.name) for row in others))
    controls, placed = {}, []
    for row in rows:
        if row.control is None and row.method != "source-only":
            control = control_of(row, recipe_name, same)
            row = replace(row, control=controls.setdefault(control.name, control).name)
        placed.append(row)
    return (placed[0], *controls.values(), *placed[1:])


def _as_published(rows: tuple[Arm, ...], paper: str) -> tuple[Arm, ...]:
    """The rows at full size: stages as released, and AdaptSegNet's own schedule for it and for the oracle."""
    alike = ("F+O, mean over pixels", "source-only, no augmentation")  # what other rows are already
    says = {
        "source-only": "the source stage alone", "Ada-ST": "source stage, class-wise pseudo-labels, self-training, as released",
        "F+O, Ada-ST": "all stages as released", "adaptsegnet": "adversarial alignment of the outputs, its own schedule",
        "target-only (oracle)": "trained on the target's labels, by AdaptSegNet's schedule",
    }  # fmt: skip
    rows = [replace(row, explanation=says.get(row.name, row.explanation)) for row in rows if row.name not in alike]
    first = replace(rows[0], plan="source of bida" if paper == "bida" else "source", overrides=())
    return (first, *(replace(row, overrides=() if row.plan is None else row.overrides) for row in rows[1:]))


def _proca(start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Arm, ...]:
    """Source-only; contrast among features, outputs, both; class-wise self-training; how prototypes are kept."""
    return (
        Arm("source-only", "source-only", same, published=37.3, explanation="source labels alone, augmented like the others"),
        Arm("F", "proca", ("lambda_out=0",), plan="contrast", published=47.9, explanation="contrast among features"),
        Arm("O", "proca", ("lambda_feat=0",), plan="contrast", published=48.4, explanation="contrast among outputs"),
        Arm("F+O", "proca", plan="contrast", published=48.8,
            explanation="both; prototypes fed by both domains (the paper's mixed)"),
        Arm("Ada-ST", "self-training", plan="ada-st", published=43.9,
            explanation="half the steps source-only, class-wise pseudo-labels, then half the steps self-training"),
        Arm("F+O, Ada-ST", "self-training", plan="proca", published=55.1,
            explanation="half the steps contrast, class-wise pseudo-labels, then half the steps self-training"),
        Arm("F+O, Ada-ST, MST", "self-training", network_of="F+O, Ada-ST", multiscale=True, published=56.3,
            control="F+O, Ada-ST",
            explanation="the network of the row above, tested at six scales"),
        Arm("F+O, fixed prototypes", "proca", ("rule=fixed",), plan="contrast", published=47.8,
            explanation="prototypes stay those of the common start"),
        Arm("F+O, source prototypes", "proca", ("feed=source",), plan="contrast", published=48.3,
            explanation="prototypes fed by the source alone"),
        Arm("F+O, mean over pixels", "proca", ("balanced=no",), plan="contrast",
            explanation="as published: every pixel counts alike, not every class"),
        Arm("adaptsegnet", "adaptsegnet", same, explanation="adversarial alignment of the outputs, augmented alike"),
        Arm("source-only, no augmentation", "source-only", start, control="source-only",
            explanation="below the first row by what augmentation brings"),
        Arm("target-only (oracle)", "target-only", same, control="source-only", explanation="trained on the target's labels"),
    )  # fmt: skip


def _bida(same: tuple[str, ...], like: str) -> tuple[Arm, ...]:
    """Base; with L_FC; with both; with dynamic labels, without and with calibration."""
    none = "dynamic=none"
    slides = {"gta5": (49.5, 51.2, 53.5, 55.3, 57.1), "synthia": (45.1, 48.8, 51.3, 53.5, 55.6)}
    base, fc, bc, uncalibrated, whole = slides[like]
    return (
        Arm("source-only", "source-only", same, explanation="source labels alone, augmented like the others"),
        Arm("base", "bida", ("lambda_fc=0", "lambda_bc=0"), plan="bida", published=base,
            explanation="source and static target labels, renewed between the rounds; entropy"),
        Arm("base, FC", "bida", ("lambda_bc=0", none), plan="bida", published=fc,
            explanation="target features find the source's prototypes"),
        Arm("base, FC, BC", "bida", (none,), plan="bida", published=bc, explanation="and source features the target's"),
        Arm("base, FC, BC, dynamic uncalibrated", "bida", ("dynamic=uncalibrated",), plan="bida", published=uncalibrated,
            explanation="hybrid labels; dynamic ones by the source's prototypes as they are"),
        Arm("base, FC, BC, dynamic", "bida", plan="bida", published=whole,
            explanation="hybrid labels; prototypes moved by the domain bias: the whole method"),
        Arm("adaptsegnet", "adaptsegnet", same, explanation="adversarial alignment of the outputs, augmented alike"),
        Arm("target-only (oracle)", "target-only", same, control="source-only", explanation="trained on the target's labels"),
    )  # fmt: skip
