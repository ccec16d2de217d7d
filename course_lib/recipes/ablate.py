"""A paper's ablation as rows of a comparison: what each of its parts adds, beside the paper's own numbers and our controls."""

from course_lib.recipes import PAPERS, find_named
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.compare import Arm


def ablation_arms(paper: str, recipe_name: str) -> tuple[Arm, ...]:
    """The rows of `paper`'s table, all with equal steps, then the controls that a gain has to be read against.

    >>> [arm.name for arm in ablation_arms("proca", "ministreet")][:5]
    ['source-only', 'F', 'O', 'F+O', 'Ada-ST']
    """
    find_named("paper", paper, PAPERS)
    staged = find_recipe(recipe_name, "proca")  # all rows start and are augmented as ProCA's stages
    start = (f"start_steps={staged.start_steps}",)
    same = (*start, f"start_photometric={staged.start_photometric}", f"photometric={staged.photometric}")
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
            explanation="the network of the row above, tested at six scales"),
        Arm("F+O, fixed prototypes", "proca", ("rule=fixed",), plan="contrast", published=47.8,
            explanation="prototypes stay those of the common start"),
        Arm("F+O, source prototypes", "proca", ("feed=source",), plan="contrast", published=48.3,
            explanation="prototypes fed by the source alone"),
        Arm("F+O, mean over pixels", "proca", ("balanced=no",), plan="contrast",
            explanation="as published: every pixel counts alike, not every class"),
        Arm("adaptsegnet", "adaptsegnet", same, explanation="adversarial alignment of the outputs, augmented alike"),
        Arm("source-only, no augmentation", "source-only", start,
            explanation="from here to the first row: what augmentation brings"),
        Arm("target-only (oracle)", "target-only", same, explanation="trained on the target's labels"),
    )  # fmt: skip
