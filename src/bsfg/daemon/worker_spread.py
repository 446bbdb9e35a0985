"""Which worker has which peer: all links of a peer together, evenly, and where it was before if it was anywhere.

A peer's links stay together because they share its queue, its limits and its connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from bsfg.model.cursor import LinkName
from bsfg.model.names import ZoneId


def spread(links: Iterable[LinkName], before: Mapping[ZoneId, int], workers: int) -> dict[ZoneId, int]:
    """The worker of each peer that has links. The same links spread anew come to the same workers."""
    sizes = Counter(name.peer for name in links)
    placed = {peer: before[peer] for peer in sizes if peer in before}
    load = Counter(dict.fromkeys(range(workers), 0))
    for peer, worker in placed.items():
        load[worker] += sizes[peer]
    for peer in sorted(sizes.keys() - placed.keys(), key=lambda peer: (-sizes[peer], peer)):
        worker = min(range(workers), key=lambda worker: (load[worker], worker))
        placed[peer] = worker
        load[worker] += sizes[peer]
    return placed
