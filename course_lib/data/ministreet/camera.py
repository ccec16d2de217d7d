"""The pinhole camera and its grid of samples.

Pixel (column u, row v) looks along ((u + 1/2 - cx) / f, -(v + 1/2 - cy) / f, 1): x right, y up, z ahead, so a ray's
parameter IS metric depth Z and a pixel back-projects to Z * direction. Looking up or down moves the principal point (a shift
lens) and turns nothing: verticals stay vertical, and a ray's x is a matter of its column alone, its y of its row.

Samples sit every half pixel, 2H+1 by 2W+1 of them, so odd samples are the pixel centres (labels and depth are read there).
A pixel's colour is half its centre and an eighth each of its four corners: along a row or a column that is [1 2 1]/4.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    focal: float  # pixels
    cx: float  # pixels
    cy: float  # pixels
    height: float  # metres above the road
    size: tuple[int, int]  # (H, W) pixels

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of samples."""
        return 2 * self.size[0] + 1, 2 * self.size[1] + 1

    @property
    def dx(self) -> np.ndarray:
        """(2W+1,) float32: x of the ray through each sample column."""
        return ((np.arange(self.grid[1]) / 2 - self.cx) / self.focal).astype(np.float32)

    @property
    def dy(self) -> np.ndarray:
        """(2H+1,) float32: y of the ray through each sample row; negative below the horizon."""
        return (-(np.arange(self.grid[0]) / 2 - self.cy) / self.focal).astype(np.float32)

    def project(self, x, y, z) -> tuple[np.ndarray, np.ndarray]:
        """World points (z > 0) to sample columns and rows."""
        return 2 * (self.cx + self.focal * x / z), 2 * (self.cy - self.focal * (y - self.height) / z)

    def back_project(self, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depth (H, W) at pixel centres to world x, y, z; the road is y = 0.

        >>> camera = Camera(focal=4.0, cx=1.0, cy=0.5, height=1.5, size=(2, 2))
        >>> x, y, z = camera.back_project(np.full((2, 2), 4.0))
        >>> x.tolist(), y.tolist()
        ([[-0.5, 0.5], [-0.5, 0.5]], [[1.5, 1.5], [0.5, 0.5]])
        """
        v, u = np.indices(self.size) + 0.5
        return depth * (u - self.cx) / self.focal, self.height - depth * (v - self.cy) / self.focal, depth

    def screen_boxes(self, corners: np.ndarray) -> tuple[np.ndarray, ...]:
        """Sample columns [u0, u1) and rows [v0, v1) that hold (3, n, k) corner points; empty when behind the camera."""
        x, y, z = corners
        u, v = self.project(x, y, np.maximum(z, 0.25))
        rows, columns = self.grid
        u0, u1 = np.floor(u.min(1)).clip(0, columns), (np.ceil(u.max(1)) + 1).clip(0, columns)
        v0, v1 = np.floor(v.min(1)).clip(0, rows), (np.ceil(v.max(1)) + 1).clip(0, rows)
        u1[z.max(1) < 0.3] = 0
        return tuple(edge.astype(int) for edge in (u0, u1, v0, v1))
