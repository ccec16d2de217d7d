"""NT-Xent against a memory: negatives are embeddings of past batches, so that small batches still meet many of them.

Letters: N pictures, views a and b of each, K embeddings in the bank, m_k one of them, d numbers each, tau the temperature.
"""

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.losses.inputs import checked_temperature, mean_or_map, without_autocast
from course_lib.losses.nt_xent import lead, softplus, unit_rows


class MemoryBank(nn.Module):
    """Each view a has to find its view b among the K embeddings b of the last batches. `bank(z_a, z_b)` -> a number.

        g_i = log sum_k exp((z_i^a . m_k - z_i^a . z_i^b) / tau),    L = 1/N sum_i log(1 + exp(g_i))

    One direction only: a looks at b and at the bank, b looks at nothing, and the batch's other rows are no negatives.
    So swapping the views changes the value. The bank carries no gradient, and with no slow copy of the network (as MoCo
    has) its rows are stale: made by the network of earlier steps.

    Afterwards the batch's views b enter: first in, first out, from the row `pointer` on. What does not fit below row K is
    left out and the pointer goes back to 0. Nothing enters when z_a carries no gradient, so that scoring changes nothing.
    All processes' views enter, in the order of the processes, and every process holds the same bank.

    The bank starts from random directions (its own `seed`). Bank and pointer are buffers and are saved with the model.
    When all similarities are alike the loss is ln(K + 1).
    """

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"MemoryBank got size {size} and dim {dim}; it wants at least one row of at least one number.")
        rows = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("bank", rows / rows.norm(dim=1, keepdim=True))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn, recurse: bool = True):
        pointer = self.pointer
        super()._apply(fn, recurse)
        self.pointer = pointer  # stays with the host, which reads it in every step
        return self

    def forward(self, z_a: Tensor, z_b: Tensor, temperature: float | Tensor = 0.5) -> Tensor:
        """The loss of this batch against the bank as it was before; then the batch enters. z_a, z_b (N, d), any length.

        temperature: a number, or a tensor without dimensions, which gets its gradient.
        """
        temperature = checked_temperature(temperature)
        with without_autocast(z_a):
            z = unit_rows(z_a, z_b)
            if z.shape[1] != self.bank.shape[1]:
                raise ValueError(f"MemoryBank of {self.bank.shape[1]} numbers per row got embeddings of {z.shape[1]}.")
            a, b = z.chunk(2)
            keys = torch.cat([b.detach(), self.bank.to(z.dtype)])  # a copy, because the backward pass needs the old rows
            partner = torch.arange(len(a), device=a.device)
            left_out = slice(None), slice(len(b))  # the batch's views b are no negatives; here is the positive's cosine
            g = lead(a @ keys.T, partner, left_out, (a * b).sum(1), temperature)
            if z_a.requires_grad:
                self.enter(b.detach())
            return mean_or_map(softplus(g), "mean")

    def extra_repr(self) -> str:
        return f"{len(self.bank)} rows of {self.bank.shape[1]} numbers, next row {int(self.pointer)}"

    @torch.no_grad()
    def enter(self, rows: Tensor) -> None:
        """Write the rows (N, d) of all processes from the pointer on; those below the last row of the bank are left out."""
        rows, start = ranks.gather(rows), int(self.pointer)
        part = self.bank[start : start + len(rows)]
        part.copy_(rows[: len(part)])
        self.pointer.fill_((start + len(part)) % len(self.bank))
