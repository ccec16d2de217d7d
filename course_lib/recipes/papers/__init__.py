"""What a paper publishes: constants, stages, the rows of its ablation, its scores. One file per paper, numbers only."""

import sys
from dataclasses import replace

from course_lib import outside
from course_lib.methods import METHODS
from course_lib.recipes.paper import Paper, Row
from course_lib.registry import modules_of

PAPERS: dict[str, Paper] = {module.PAPER.name: module.PAPER for module in modules_of(__name__, __path__)}


def own_paper(method: str) -> Paper | None:
    """What a method's own paper publishes; of a method from outside, the `PAPER` beside its class; None where there is none."""
    return _beside(method) if ("method", method) in outside.LOADED else PAPERS.get(method)


def paper_of(method: str) -> Paper | None:
    """The paper whose constants a method takes: its own, or the one that has a stage of it; None for the controls."""
    return own_paper(method) or next((paper for paper in PAPERS.values() if method in paper.stage_of), None)


def _beside(method: str) -> Paper | None:
    """The PAPER in the file of a method from outside, which calls the method by `PAPER.name`, by the method's name."""
    paper = getattr(sys.modules.get(METHODS[method].__module__), "PAPER", None)
    if paper is None or isinstance(paper, Paper):
        return paper and _renamed(paper, method)
    raise ValueError(f"PAPER in the file of {method} is a {type(paper).__name__}; wanted a course_lib.recipes.Paper.")


def _renamed(paper: Paper, method: str) -> Paper:
    def now(name: str) -> str:
        return method if name == paper.name else name

    def row(given: Row) -> Row:
        return replace(given, method=now(given.method), plan=given.plan and now(given.plan))

    rows = paper.rows and (lambda *about: tuple(row(given) for given in paper.rows(*about)))
    stages = {stage: now(name) for stage, name in paper.stages.items()}
    return replace(paper, name=method, stages=stages, rows=rows)
