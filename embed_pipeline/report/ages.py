"""How long something takes or has taken, as a person says it. Pure."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """40 ms, 2.5 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, length, smaller, small in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86_400, "h", 3600)):
        if whole < length * {"min": 60, "h": 24, "d": 10**6}[unit]:
            return f"{whole // length} {unit} {whole % length // small} {smaller}"
    return f"{whole} s"
