"""SemiSegContrast's memory and loss, ours and class by class with boolean masks and all pairs: a row of `contrast_speed`.

Ours: `networks.class_mlp` scores all cells at once, `class_memory.FeatureQueue` takes in those with the highest scores,
`losses.memory_contrast` is one product of two means for each class. Plain: loops over the classes; of each one a mask, a small
network, a sorted list, and the distances of its cells to its memory. A full memory of 256 vectors of each of 19 classes.
"""

import copy
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.class_memory import FeatureQueue
from course_lib.losses import memory_contrast
from course_lib.networks.class_mlp import SLOPE, ClassMLP

C, WIDTH, LENGTH = 19, 256, 256
MOST = 15  # features of a class that enter: five pictures, three of each


class State(NamedTuple):
    """What a step finds: a full memory, selectors of cells and of the memory."""

    queue: FeatureQueue
    selector: ClassMLP
    memory_selector: ClassMLP


@lru_cache
def state(device: torch.device) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        queue = FeatureQueue(C, WIDTH, LENGTH)
        queue.features.copy_(F.normalize(torch.randn(C, LENGTH, WIDTH), dim=2))
        queue.filled.fill_(LENGTH)
        parts = queue, ClassMLP(C, WIDTH, WIDTH), ClassMLP(C, WIDTH, WIDTH)
        return State(*(part.to(device) for part in parts))


def ours(u: Tensor, y: Tensor) -> Tensor:
    s = state(u.device)
    queue = copy.deepcopy(s.queue)
    with torch.no_grad():
        queue.update(u, y, s.selector(u, y), most=MOST)
    w = s.selector(u.detach(), y).sigmoid()
    classes = torch.arange(C, device=u.device)[:, None].expand(C, LENGTH)
    v = s.memory_selector(queue.features.flatten(0, 1), classes.flatten()).sigmoid().view(C, LENGTH)
    return memory_contrast(u, y, queue.features, queue.there, w, v)


def plain_score(selector: ClassMLP, c: int, x: Tensor) -> Tensor:
    hidden = F.leaky_relu(F.linear(x, selector.first[c], selector.first_bias[c]), SLOPE)
    return F.linear(hidden, selector.second[c : c + 1], selector.second_bias[c : c + 1])


def plain(u: Tensor, y: Tensor) -> Tensor:
    """Class by class: the newest features before the old ones, then all distances with the weights of both sides."""
    s, memory = state(u.device), []
    with torch.no_grad():
        for c in range(C):
            x = u[y == c]
            if len(x) > MOST:
                x = x[plain_score(s.selector, c, x)[:, 0].sort(descending=True).indices[:MOST]]
            memory.append(torch.cat([x, s.queue.features[c]])[:LENGTH])
    loss = u.new_zeros(())
    for c in range(C):
        x = u[y == c]
        if len(x) == 0:
            continue
        distances = 1 - F.normalize(x, dim=1) @ F.normalize(memory[c], dim=1).T
        w = plain_score(s.selector, c, x.detach()).sigmoid()
        v = plain_score(s.memory_selector, c, memory[c]).sigmoid()
        loss = loss + (distances * (len(w) / w.sum() * w) * (len(v) / v.sum() * v).T).mean()
    return loss / C


def products(u: Tensor, y: Tensor) -> None:
    """The selectors' first layer on the cells, twice, and the means of the classes with their gradient."""
    x, W = u.detach(), state(u.device).selector.first[0].detach()
    x @ W.T
    x @ W.T
    A = F.one_hot(y, C).to(x.dtype)
    A @ (A.T @ x)
