"""Where an object stands: a local frame on the street, so that objects are written in their own coordinates."""

from math import cos, sin

from .solids import PLAIN, SolidList


class Site:
    """The frame of one object: x right, y up from the ground it stands on, z ahead, all times `scale`."""

    def __init__(self, solids: SolidList, origin, yaw: float, instance: int, scale: float = 1.0):
        self.solids, self.origin, self.yaw, self.instance, self.scale = solids, origin, yaw, instance, scale
        self._cos, self._sin = cos(yaw), sin(yaw)

    @property
    def distance(self) -> float:
        """Metres ahead of the camera, in the object's own scale: what it looks like decides how much detail it gets."""
        return self.origin[2] / self.scale

    def put(self, kind, at, half, label, colour, material=PLAIN, shadow=True, extra=(), planes=()):
        """Add a solid with centre `at` and half sizes `half`, both in the local frame."""
        k, (x, y, z), (x0, y0, z0) = self.scale, at, self.origin
        self.solids.add(
            kind,
            (x0 + k * (self._cos * x - self._sin * z), y0 + k * y, z0 + k * (self._sin * x + self._cos * z)),
            (k * half[0], k * half[1], k * half[2]),
            self.yaw,
            label,
            self.instance,
            colour,
            material,
            shadow,
            extra,
            [(nx, ny, nz, k * d) for nx, ny, nz, d in planes],
        )


def shade(colour, level: float) -> tuple[float, float, float]:
    """A colour made darker or lighter.

    >>> shade((0.5, 0.25, 1.0), 0.5)
    (0.25, 0.125, 0.5)
    """
    return (level * colour[0], level * colour[1], level * colour[2])
