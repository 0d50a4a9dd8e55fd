"""Where a model goes: filter, then score, then explain."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from mesh.placement.decisions import Candidate
from mesh.placement.limits import full_threshold_units, size_text
from mesh.placement.reservations import Pending, Reservations
from mesh.placement.view import NEVER_USED_MS, ClusterView, Exclusion, InstanceView, PlacementRequest

#: A hard condition of its own: returns why the instance is refused, or "" where it is fine.
InstanceFilter = Callable[[InstanceView, PlacementRequest], str]


class PlacementReason(StrEnum):
    """The outcome of a choice, for machines."""

    CHOSEN = "chosen"
    #: No instance is there, or all are shutting down.
    NO_INSTANCES = "no_instances"
    #: Every instance has a copy, failed or was tried already.
    ALL_EXCLUDED = "all_excluded"
    #: Larger than the capacity of every instance that was not excluded.
    TOO_LARGE = "too_large"
    #: Full everywhere, with copies used more recently than this model.
    NO_ROOM = "no_room"
    #: A filter refused all that was left.
    NOT_ELIGIBLE = "not_eligible"


@dataclass(frozen=True, slots=True)
class Placement:
    """A choice with its reasons.

    Attributes:
        chosen: instance id, or None.
        message: one line for people.
        candidates: best first, refused ones last; about `PlacementPolicy.explained` of them.
    """

    chosen: str | None
    reason: PlacementReason
    message: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Figures of the choice. Where nothing else is said they are those of KServe ModelMesh.

    Attributes:
        least_free_share: of the best one's free memory; one with less is not about as good.
        even_models: so many models are not yet a reason to prefer another instance.
        most_models_share: of the best one's models; one with more is not about as good.
        lru_gap_ms: full instances whose oldest uses lie this close together are about as good.
        lru_gap_share: the same, as a share of the best one's age.
        busy_rpm: below so many requests per minute an instance is not busy.
        loads_per_round: loads per loader that may be queued before another instance is preferred; a rule of
            our own, without which a burst piles up on the emptiest instance.
        explained: candidates kept with their texts.
    """

    least_free_share: float = 0.25
    even_models: int = 10
    most_models_share: float = 1.25
    lru_gap_ms: int = 45_000
    lru_gap_share: float = 0.10
    busy_rpm: int = 100
    loads_per_round: int = 4
    explained: int = 20


@dataclass(slots=True)
class _Standing:
    """One instance's merits. The order of `key` is the ranking."""

    view: InstanceView
    full: bool
    rounds: int
    models: int
    free: int
    loads: int
    key: tuple[int | str, ...]

    @property
    def backlog(self) -> float:
        return self.loads / max(1, self.view.loader_threads)

    def score(self, now_ms: int) -> str:
        view = self.view
        text = (
            f"{'full' if self.full else 'room'}: {size_text(self.free)} of {size_text(view.capacity_units)} "
            f"free, {self.models} models, {self.loads} loads on {view.loader_threads} loaders"
        )
        if self.full and view.oldest_used_ms != NEVER_USED_MS:
            text += f", oldest use {max(0, now_ms - view.oldest_used_ms) / 1000:.0f} s ago"
        if view.requests_per_minute:
            text += f", {view.requests_per_minute} requests/min"
        return text


def choose(
    view: ClusterView,
    request: PlacementRequest,
    now_ms: int,
    random: Random,
    *,
    reservations: Reservations | None = None,
    filters: Sequence[InstanceFilter] = (),
    policy: PlacementPolicy = PlacementPolicy(),
) -> Placement:
    """Chooses the instance that is to load a model. Adds no reservation: that is up to who carries it out.

    Instances with room go first, among them the ones with the fewest queued loads and then the fewest models;
    then full ones, the one whose oldest copy was used longest ago first. Those about as good as the best are
    a shortlist, from which the less laden of two drawn at random is taken: several choosers with about the same
    view would otherwise all take the same one.

    Args:
        view: every live instance with what its record says.
        request: the model, and where it cannot go.
        now_ms: epoch milliseconds.
        random: draws from the shortlist.
        reservations: placements not yet visible in the records.
        filters: further hard conditions, such as labels that a type requires.
        policy: figures of the choice.
    """
    refused: list[tuple[str, str, PlacementReason]] = []
    standings: list[_Standing] = []
    for instance in view.instances.values():
        pending = reservations.pending(instance.instance_id) if reservations is not None else Pending()
        standing = _standing(instance, pending, view.default_model_units, request.units, policy)
        refusal = _refusal(standing, request, view.default_model_units, now_ms, filters)
        if refusal is None:
            standings.append(standing)
        else:
            refused.append((instance.instance_id, *refusal))
    standings.sort(key=lambda standing: standing.key)
    if not standings:
        return _nowhere(request, refused, policy)
    shortlist = _shortlist(standings, now_ms, policy)
    chosen, how = _draw(shortlist, view.self_id, request, now_ms, random, policy)
    instance_id = chosen.view.instance_id
    candidates = [
        Candidate(standing.view.instance_id, rank=rank, score=standing.score(now_ms))
        for rank, standing in enumerate(standings, 1)
        if rank <= policy.explained or standing is chosen
    ]
    room = max(0, policy.explained - len(candidates))
    candidates.extend(Candidate(name, refused=why) for name, why, _ in refused[:room])
    message = f"{instance_id} is {how} of {len(standings)} possible: {chosen.score(now_ms)}"
    return Placement(instance_id, PlacementReason.CHOSEN, message, tuple(candidates))


def _standing(
    view: InstanceView, pending: Pending, default_units: int, units: int, policy: PlacementPolicy
) -> _Standing:
    free = max(0, view.capacity_units - view.used_units - pending.units)
    models = view.models + pending.loads
    loads = view.loads_in_progress + pending.loads
    threads = max(1, view.loader_threads)
    full = free < max(full_threshold_units(view.capacity_units, default_units, threads), units)
    rounds = loads // (threads * policy.loads_per_round)
    oldest = view.oldest_used_ms
    merits = (oldest, models, -free) if full else (models, -free, oldest)
    return _Standing(
        view,
        full,
        rounds,
        models,
        free,
        loads,
        (
            full,
            rounds,
            -view.version,
            *merits,
            -max(0, threads - loads),
            loads,
            -view.capacity_units,
            view.requests_per_minute,
            view.instance_id,
        ),
    )


_EXCLUSION_TEXT = {
    Exclusion.HAS_COPY: "has a copy already",
    Exclusion.FAILED: "the model failed to load there",
    Exclusion.TRIED: "was tried for this request already",
    Exclusion.EXCLUDED: "was excluded by the caller",
}


def _refusal(
    standing: _Standing,
    request: PlacementRequest,
    default_units: int,
    now_ms: int,
    filters: Sequence[InstanceFilter],
) -> tuple[str, PlacementReason] | None:
    view = standing.view
    if (exclusion := request.excluded.get(view.instance_id)) is not None:
        return _EXCLUSION_TEXT[exclusion], PlacementReason.ALL_EXCLUDED
    if view.shutting_down:
        return "is shutting down", PlacementReason.NO_INSTANCES
    for condition in filters:
        if why := condition(view, request):
            return why, PlacementReason.NOT_ELIGIBLE
    if request.units > view.capacity_units:
        return (
            f"its capacity, {size_text(view.capacity_units)}, is smaller than the model, "
            f"{size_text(request.units)}",
            PlacementReason.TOO_LARGE,
        )
    used_ms = request.last_used_ms or now_ms
    if standing.full and standing.free < (request.units or default_units) and used_ms <= view.oldest_used_ms:
        return "full, with copies all used more recently than this model", PlacementReason.NO_ROOM
    return None


def _shortlist(standings: list[_Standing], now_ms: int, policy: PlacementPolicy) -> list[_Standing]:
    """Those about as good as the best, each judged by its own record."""
    best = standings[0]
    shortlist = [best]
    for standing in standings[1:]:
        if standing.full != best.full or standing.rounds > best.rounds:
            break
        if best.full:
            gap_ms = standing.view.oldest_used_ms - best.view.oldest_used_ms
            age_ms = now_ms - best.view.oldest_used_ms
            if gap_ms > policy.lru_gap_ms and gap_ms > policy.lru_gap_share * age_ms:
                break
        elif standing.free < policy.least_free_share * best.free or (
            standing.models >= policy.even_models and standing.models > policy.most_models_share * best.models
        ):
            break
        shortlist.append(standing)
    return shortlist


def _draw(
    shortlist: list[_Standing],
    self_id: str,
    request: PlacementRequest,
    now_ms: int,
    random: Random,
    policy: PlacementPolicy,
) -> tuple[_Standing, str]:
    if request.balanced:
        for standing in shortlist:
            if standing.view.instance_id == self_id:
                return standing, "the instance that was asked, and as good as the best"
    if len(shortlist) == 1:
        return shortlist[0], "the best"
    idle = _without_busy(shortlist, request.last_used_ms or now_ms, now_ms, policy)
    if len(idle) == 1:
        return idle[0], f"the least busy among the best {len(shortlist)}"
    drawn = random.sample(idle, 2)
    return min(
        drawn, key=lambda one: (one.backlog, one.models, -one.free)
    ), f"drawn from the best {len(idle)}"


#: How many times as busy as the least busy one an instance may be, by how long ago the model was last used, in
#: milliseconds. A further copy for a busy model has a use in the future. Those of KServe ModelMesh.
_BUSY_FACTORS = ((0, 1.1), (5_000, 1.5), (720_000, 3.0), (5 * 86_400_000, 4.0))


def _without_busy(
    shortlist: list[_Standing], used_ms: int, now_ms: int, policy: PlacementPolicy
) -> list[_Standing]:
    """The busier the model is going to be, the less it belongs on an instance that is busy itself."""
    age_ms = now_ms - used_ms
    factor = next((factor for below_ms, factor in _BUSY_FACTORS if age_ms < below_ms), None)
    if factor is None:
        return shortlist
    least = min(standing.view.requests_per_minute for standing in shortlist)
    most = factor * max(policy.busy_rpm, least)
    return [standing for standing in shortlist if standing.view.requests_per_minute <= most]


#: Which refusal to tell where there are several kinds: the one that a user can do most about.
_TELLING = (
    PlacementReason.NO_ROOM,
    PlacementReason.TOO_LARGE,
    PlacementReason.NOT_ELIGIBLE,
    PlacementReason.ALL_EXCLUDED,
)


def _nowhere(
    request: PlacementRequest, refused: list[tuple[str, str, PlacementReason]], policy: PlacementPolicy
) -> Placement:
    kinds = {kind for _, _, kind in refused}
    reason = next((kind for kind in _TELLING if kind in kinds), PlacementReason.NO_INSTANCES)
    if not refused:
        message = f"No instance is there for model {request.model_id}"
    else:
        whys = Counter(why for _, why, _ in refused)
        told = "; ".join(f"{count} x {why}" for why, count in whys.most_common(5))
        message = f"None of {len(refused)} instances can take model {request.model_id}: {told}"
    candidates = tuple(Candidate(name, refused=why) for name, why, _ in refused[: policy.explained])
    return Placement(None, reason, message, candidates)
