"""What the best choice of victims could do that knew all requests to come."""

from array import array
from heapq import heappop, heappush

from mesh.placement import to_units
from mesh.simulation.trace import Trace


def _next_uses(trace: Trace) -> "array[int]":
    """For each request, at which place its model is requested again; the number of requests where it is not."""
    never = len(trace)
    found, upcoming = array("q", bytes(8 * never)), array("q", [never]) * len(trace.traced)
    for place in range(never - 1, -1, -1):
        number = trace.numbers[place]
        found[place] = upcoming[number]
        upcoming[number] = place
    return found


def belady(trace: Trace, places: int) -> int:
    """Counts the loads where as many models fit as there are places, whichever they are.

    The one whose next use is farthest away goes: no choice needs fewer loads (L. A. Belady, 1966).

    Args:
        places: at least 1.
    """
    next_uses = _next_uses(trace)
    due: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    loads = 0
    for place, number in enumerate(trace.numbers):
        if number not in due:
            loads += 1
            while len(due) >= places:
                negative, candidate = heappop(farthest)
                if due.get(candidate) == -negative:
                    del due[candidate]
        due[number] = next_uses[place]
        heappush(farthest, (-next_uses[place], number))
    return loads


def least_cold_start(trace: Trace, capacity_units: int) -> float:
    """Tells below what the loads of a trace cannot take together, milliseconds, whatever is evicted.

    To keep a model from one request to its next takes its size for that long and saves a load. What is kept must fit
    at each moment; asked is only that it fits on average, so that those which save most for what they take are kept,
    and the last of them in part. (The bound PFOO-L of D. S. Berger, N. Beckmann, M. Harchol-Balter: "Practical bounds
    on optimal caching with variable object sizes", 2018, with loads of different cost.)

    Args:
        capacity_units: of 8 KiB.
    """
    models = [(to_units(model.size_bytes), model.load_us / 1_000) for model in trace.traced]
    never = len(trace)
    total_ms = sum(models[number][1] for number in trace.numbers)
    kept = []
    for place, again in enumerate(_next_uses(trace)):
        if again != never:
            units, load_ms = models[trace.numbers[place]]
            taken = units * (again - place)
            kept.append((load_ms / taken, taken, load_ms))
    kept.sort(reverse=True)
    left = float(capacity_units) * never
    saved_ms = 0.0
    for worth, taken, load_ms in kept:
        if taken > left:
            saved_ms += worth * left
            break
        left -= taken
        saved_ms += load_ms
    return total_ms - saved_ms
