"""Slots: one version's list, with the documents that another version has put in order by that one. Pure.

The list says which places are held by documents that the other version has. They go into these places in the other's order; all others stay
where they are. So no distance of one space is ever compared with one of the other, and any strictly increasing function of either side's
distances leaves the result as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def places(listed: Sequence[str], distances: Mapping[str, float]) -> list[int]:
    """For each place of the list the position in it of the document that stands there now: a permutation of all positions.

    `distances`: of those listed documents that the other version has, smaller is nearer. Equals keep the list's order; what is no number
    orders nothing, and stays.
    """
    apart = [distances.get(doc_id, math.nan) for doc_id in listed]
    held = [place for place, distance in enumerate(apart) if not math.isnan(distance)]
    result = list(range(len(listed)))
    for place, came_from in zip(held, sorted(held, key=apart.__getitem__), strict=True):
        result[place] = came_from
    return result
