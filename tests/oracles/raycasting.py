"""A slow ray caster: one ray, one solid, float64, straight from the equations of the shapes.

A ray is p + t d. A solid has a centre c, half sizes h and turns by yaw about the vertical: its axes are
X = (cos yaw, 0, sin yaw), Y = (0, 1, 0), Z = (-sin yaw, 0, cos yaw).
"""

from math import cos, sin, sqrt

BOX, ELLIPSOID, CYLINDER, CONVEX = range(4)


def hit(kind, centre, half, yaw, planes, p, d):
    """The depth t > 0 at which the ray enters the solid, or None."""
    axes = ((cos(yaw), 0.0, sin(yaw)), (0.0, 1.0, 0.0), (-sin(yaw), 0.0, cos(yaw)))
    offset = [a - b for a, b in zip(p, centre, strict=True)]
    o = [sum(x * y for x, y in zip(offset, axis, strict=True)) for axis in axes]
    e = [sum(x * y for x, y in zip(d, axis, strict=True)) for axis in axes]
    if kind in (BOX, CONVEX):
        spaces = [(*(s * (i == axis) for i in range(3)), half[axis]) for axis in range(3) for s in (-1, 1)]
        return _enter_half_spaces(spaces + list(planes), o, e)
    if kind == ELLIPSOID:
        return _first_root(o, e, half, (0, 1, 2))
    t = _first_root(o, e, half, (0, 2))  # the infinite cylinder; between its ends?
    return t if t is not None and abs(o[1] + t * e[1]) < half[1] else None


def _enter_half_spaces(spaces, o, e):
    """Inside all n.(o + t e) <= d from the last entry to the first exit."""
    enter, leave = 0.0, float("inf")
    for *n, d in spaces:
        along, room = sum(a * b for a, b in zip(n, e, strict=True)), d - sum(a * b for a, b in zip(n, o, strict=True))
        if along < 0:
            enter = max(enter, room / along)
        elif along > 0:
            leave = min(leave, room / along)
        elif room < 0:
            return None
    return enter if enter < leave else None


def _first_root(o, e, half, axes):
    """Smaller t of sum_i ((o_i + t e_i) / h_i)^2 = 1."""
    a = sum((e[i] / half[i]) ** 2 for i in axes)
    b = sum(o[i] * e[i] / half[i] ** 2 for i in axes)
    c = sum((o[i] / half[i]) ** 2 for i in axes) - 1
    return None if b * b - a * c <= 0 else (-b - sqrt(b * b - a * c)) / a
