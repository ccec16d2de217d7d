"""What a paper publishes: constants, stages, the rows of its ablation, its scores. One file per paper, numbers only."""

from course_lib.recipes.paper import Paper
from course_lib.registry import modules_of

PAPERS: dict[str, Paper] = {module.PAPER.name: module.PAPER for module in modules_of(__name__, __path__)}


def paper_of(method: str) -> Paper | None:
    """The paper whose constants a method takes: its own, or the one that has a stage of it; None for the controls."""
    return PAPERS.get(method) or next((paper for paper in PAPERS.values() if method in paper.stage_of), None)
