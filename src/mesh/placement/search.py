"""The instances that can take one model, in order, and which of them are about as good as the best."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, merge
from itertools import islice, takewhile
from operator import attrgetter

from mesh.placement.constraints import Labels
from mesh.placement.decisions import Candidate
from mesh.placement.limits import size_text
from mesh.placement.placements import InstanceFilter, PlacementPolicy, PlacementReason
from mesh.placement.ranking import Group, RankedInstances, Ranks
from mesh.placement.standing import Key, Standing
from mesh.placement.view import Exclusion, InstanceView, PlacementRequest

_EXCLUSIONS = {
    Exclusion.HAS_COPY: ("has a copy already", PlacementReason.ALL_EXCLUDED),
    Exclusion.FAILED: ("the model failed to load there", PlacementReason.ALL_EXCLUDED),
    Exclusion.TRIED: ("was tried for this request already", PlacementReason.ALL_EXCLUDED),
    Exclusion.EXCLUDED: ("was excluded by the caller", PlacementReason.ALL_EXCLUDED),
    Exclusion.NOT_SERVED: ("did not serve this request a moment ago", PlacementReason.ALL_EXCLUDED),
    Exclusion.SUSPECT: ("did not answer a moment ago", PlacementReason.NO_INSTANCES),
}

_Key = Callable[[Standing], Key]
_ROOM_KEY: _Key = attrgetter("room_key")
_AGE_KEY: _Key = attrgetter("age_key")
#: Instances are looked at so many at a time: a shortlist, and some that cannot take the model.
_BLOCK = 80

#: Why an instance that can take the model is set aside, or "" where it is not.
_Wish = Callable[[Standing], str]


class Lane:
    """The instances of one group that can take the model, in order, sorted out only as far as anybody looks."""

    __slots__ = ("_blocks", "_found", "group")

    def __init__(self, group: Group, blocks: Iterator[list[Standing]]) -> None:
        self.group = group
        self._blocks = blocks
        self._found: list[Standing] = []

    def __iter__(self) -> Iterator[Standing]:
        position = 0
        while len(found := self.first_few(position + 1)) > position:
            yield found[position]
            position += 1

    def first_few(self, number: int) -> list[Standing]:
        """The best of them, so many at least, or all."""
        found = self._found
        while len(found) < number and (block := next(self._blocks, None)) is not None:
            found += block
        return found


class Search:
    """One choice under way.

    Args:
        laden: instances of which more is known than their records say.
        avoid: instances that are taken only where otherwise there would be none, or copies would be evicted.
    """

    def __init__(
        self,
        ranked: RankedInstances,
        request: PlacementRequest,
        now_ms: int,
        laden: Mapping[str, Standing],
        filters: Sequence[InstanceFilter],
        avoid: Collection[str],
        policy: PlacementPolicy,
    ) -> None:
        self._ranked = ranked
        self._request = request
        self._now_ms = now_ms
        self._laden = laden
        self._filters = filters
        self._avoid = avoid
        #: Whether those are left out that are taken only where there is no other.
        self._choosy = True
        self._policy = policy
        self._eligible = ranked.eligible(request.model_type)
        self._required = ranked.constraints.rule(request.model_type).required
        self._wishes: list[_Wish] = []
        #: Whether all that can take it are full; others do not count then.
        self._full = False
        self._lanes = self._possible()
        #: What is left of the lanes when the wishes have been heard.
        self._considered = self._lanes
        if self._lanes:
            self.best: Standing = next(self._in_order(self._lanes))
            self._hear_wishes()
            self.best = next(self._in_order(self._considered))

    @property
    def found(self) -> bool:
        """Whether any instance can take the model; only then is there a `best`."""
        return bool(self._lanes)

    @property
    def required(self) -> Labels:
        """Labels that an instance must have."""
        return self._required

    @property
    def any_eligible(self) -> bool:
        """Whether any instance has the labels that it must have."""
        return bool(self._eligible.groups)

    def shortlist(self) -> list[Standing]:
        """Those about as good as the best, each judged by its own record; the best one first."""
        lanes, most = self._considered, self._policy.shortlist
        first = (
            lanes[0].first_few(most)[:most] if len(lanes) == 1 else list(islice(self._in_order(lanes), most))
        )
        if self._full:
            # The further down, the younger: there is one place up to which all are about as good.
            return first[: bisect_left(first, True, key=lambda one: not self._is_about_as_good(one))]
        return list(takewhile(self._has_about_as_much_room(), first))

    def is_as_good(self, instance_id: str) -> Standing | None:
        """The instance's standing where it is about as good as the best, else None."""
        one = self.standing(instance_id)
        if one is None or one.has_room(self._request.units) is self._full or self.refusal(one) is not None:
            return None
        if any(wish(one) for wish in self._wishes):
            return None
        return one if self._is_about_as_good(one) else None

    def standing(self, instance_id: str) -> Standing | None:
        """What an instance is worth now; None where it is not known."""
        return self._laden.get(instance_id) or self._ranked.standing(instance_id)

    # Who can take it

    def _possible(self) -> list[Lane]:
        """Those with room, else full ones; each time those that are left out if possible only where no other is."""
        some_left_out = bool(self._avoid) or Exclusion.NOT_SERVED in self._request.excluded.values()
        for self._full in (False, True):
            for self._choosy in (True, False) if some_left_out else (True,):
                if lanes := self._lanes_of(full=self._full):
                    return lanes
        return []

    def _lanes_of(self, *, full: bool) -> list[Lane]:
        lanes = (self._lane(group, full=full) for group in self._eligible.groups)
        return [lane for lane in lanes if lane.first_few(1)]

    def _lane(self, group: Group, *, full: bool) -> Lane:
        blocks = self._in_blocks(
            group, _AGE_KEY if full else _ROOM_KEY, group.by_age if full else group.by_room
        )
        return Lane(group, map(self._full_takers if full else self._roomy_takers, blocks))

    def _in_blocks(self, group: Group, key: _Key, ranks: Ranks) -> Iterator[list[Standing]]:
        """Ranked instances in order, a few at a time; laden ones have another place than their records give them."""
        laden, keys, standings = self._laden, ranks.keys, ranks.standings
        moved = [one for name, one in laden.items() if name in group.members and not one.view.shutting_down]
        start, end = 0, len(standings)
        for one in _in_turn(moved, key):
            place = bisect_left(keys, key(one), start)
            for at in range(start, place, _BLOCK):
                block = standings[at : min(at + _BLOCK, place)]
                yield [other for other in block if other.instance_id not in laden]
            yield [one]
            start = place
        for at in range(start, end, _BLOCK):
            yield [other for other in standings[at : at + _BLOCK] if other.instance_id not in laden]

    def _roomy_takers(self, block: list[Standing]) -> list[Standing]:
        """Those of some instances that can take the model without an eviction."""
        units = self._request.units
        return self._not_refusing(
            [one for one in block if one.free >= one.threshold and one.free >= units],
        )

    def _full_takers(self, block: list[Standing]) -> list[Standing]:
        """Those of some instances that can take the model, but not without an eviction or hardly."""
        request = self._request
        units, used_ms = request.units, request.last_used_ms or self._now_ms
        needed = units or self._ranked.default_model_units
        return self._not_refusing(
            [
                one
                for one in block
                if (one.free < one.threshold or one.free < units)
                and units <= one.view.capacity_units
                and (one.view.oldest_used_ms < used_ms or one.free >= needed)
            ]
        )

    def _not_refusing(self, block: list[Standing]) -> list[Standing]:
        """Those that nothing speaks against but what they hold; all have the labels that they must have."""
        if self._filters or self._avoid or not self._choosy:
            return [one for one in block if self.refusal(one) is None]
        excluded = self._request.excluded
        return [one for one in block if one.instance_id not in excluded] if excluded else block

    def refusal(self, standing: Standing) -> tuple[str, PlacementReason] | None:
        """Why an instance cannot take the model; None where it can."""
        view, request = standing.view, self._request
        if (exclusion := request.excluded.get(view.instance_id)) is not None and (
            self._choosy or exclusion is not Exclusion.NOT_SERVED
        ):
            return _EXCLUSIONS[exclusion]
        if view.shutting_down:
            return "is shutting down", PlacementReason.NO_INSTANCES
        if self._choosy and view.instance_id in self._avoid:
            return "its replica set is being replaced", PlacementReason.ALL_EXCLUDED
        if not self._required <= view.labels:
            lacking = ", ".join(sorted(self._required - view.labels))
            return f"lacks label {lacking}, which its type requires", PlacementReason.NOT_ELIGIBLE
        for condition in self._filters:
            if why := condition(view, request):
                return why, PlacementReason.NOT_ELIGIBLE
        if request.units > view.capacity_units:
            return (
                f"its capacity, {size_text(view.capacity_units)}, is smaller than the model, "
                f"{size_text(request.units)}",
                PlacementReason.TOO_LARGE,
            )
        if (
            (request.last_used_ms or self._now_ms) <= view.oldest_used_ms
            and standing.free < (request.units or self._ranked.default_model_units)
            and not standing.has_room(request.units)
        ):
            return "full, with copies all used more recently than this model", PlacementReason.NO_ROOM
        return None

    def refusals(self) -> Iterator[tuple[str, str, PlacementReason]]:
        """Everyone who cannot take the model: id, why for people and for machines."""
        for instance_id in self._ranked.views:
            standing = self.standing(instance_id)
            if standing is not None and (why := self.refusal(standing)) is not None:
                yield instance_id, *why

    # Who is wished for

    def _hear_wishes(self) -> None:
        if preferred := self._eligible.preferred:
            labels = {group.labels for group in preferred}
            self._prefer(
                [lane for lane in self._considered if lane.group.labels in labels],
                lambda one: "" if one.view.labels in labels else "the type prefers others by their labels",
            )
        zones, hosts = self._places_of_copies()
        for most in sorted({0, *zones.values()}) if zones else ():
            wished = [lane for lane in self._considered if zones[lane.group.zone] <= most]
            if self._prefer(wished, _few_copies(zones, most, "zone", lambda view: view.zone)):
                break
        for most in sorted({0, *hosts.values()}) if hosts else ():
            wish = _few_copies(hosts, most, "host", lambda view: view.location)
            if self._prefer([_narrowed(lane, wish) for lane in self._considered], wish):
                break

    def _places_of_copies(self) -> tuple[Counter[str], Counter[str]]:
        zones: Counter[str] = Counter()
        hosts: Counter[str] = Counter()
        for instance_id, exclusion in self._request.excluded.items():
            view = self._ranked.views.get(instance_id)
            if exclusion is Exclusion.HAS_COPY and view is not None and not view.shutting_down:
                zones[view.zone] += 1
                if view.location:
                    hosts[view.location] += 1
        return zones, hosts

    def _prefer(self, wished: list[Lane], wish: _Wish) -> bool:
        """Goes on with some lanes alone, if there is one in them about as good as the best of all."""
        if not any(self._is_near(one) for lane in wished for one in lane):
            return False
        self._considered = [lane for lane in wished if lane.first_few(1)]
        self._wishes.append(wish)
        return True

    def _is_near(self, one: Standing) -> bool:
        """Whether it is worth taking for a wish."""
        return not self._full or self._is_about_as_old(
            one, self._policy.wish_gap_ms, self._policy.wish_gap_share
        )

    # Who is about as good

    def _is_about_as_good(self, one: Standing) -> bool:
        if not self._full:
            return self._has_about_as_much_room()(one)
        best, policy = self.best, self._policy
        return (
            one.rounds <= best.rounds
            and one.view.version >= best.view.version
            and self._is_about_as_old(one, policy.lru_gap_ms, policy.lru_gap_share)
        )

    def _has_about_as_much_room(self) -> Callable[[Standing], bool]:
        best, policy = self.best, self._policy
        rounds, version, few = best.rounds, best.view.version, policy.even_models
        least_free, most_models = policy.least_free_share * best.free, policy.most_models_share * best.models
        return lambda one: (
            one.free >= least_free
            and (one.models < few or one.models <= most_models)
            and one.rounds <= rounds
            and one.view.version >= version
        )

    def _is_about_as_old(self, one: Standing, gap_ms: int, share: float) -> bool:
        gap = one.view.oldest_used_ms - self.best.view.oldest_used_ms
        return gap <= gap_ms or gap <= share * (self._now_ms - self.best.view.oldest_used_ms)

    def _in_order(self, lanes: list[Lane]) -> Iterator[Standing]:
        return _merged(lanes, _AGE_KEY if self._full else _ROOM_KEY)

    # Why

    def explain(self, chosen: Standing) -> Iterable[Candidate]:
        """Every candidate with its reasons, the best first; the chosen one always, of others as many as wanted."""
        units, now_ms, most = self._request.units, self._now_ms, self._policy.explained
        told: set[str] = set()
        rank = 0
        for one in self._ranking():
            if one.instance_id in told:
                continue
            rank += 1
            if rank <= most or one is chosen:
                told.add(one.instance_id)
                aside = next((why for wish in self._wishes if (why := wish(one))), "")
                yield Candidate(one.instance_id, rank, merits=one.merits(units, now_ms, aside))
            if rank >= most and chosen.instance_id in told:
                break
        for instance_id, why, _ in islice(self.refusals(), max(0, most - len(told))):
            yield Candidate(instance_id, refused=why)

    def _ranking(self) -> Iterator[Standing]:
        """All who can take the model: those considered, those set aside, and full ones where others have room."""
        yield from self._in_order(self._considered)
        yield from self._in_order(self._lanes)
        if not self._full:
            yield from _merged(self._lanes_of(full=True), _AGE_KEY)


def _in_turn(standings: list[Standing], key: _Key) -> Iterator[Standing]:
    """In order, for callers who mostly look at the first few."""
    heap = [(key(one), one) for one in standings]
    heapify(heap)
    while heap:
        yield heappop(heap)[1]


def _merged(lanes: list[Lane], key: _Key) -> Iterator[Standing]:
    return iter(lanes[0]) if len(lanes) == 1 else merge(*lanes, key=key)


def _few_copies(copies: Counter[str], most: int, what: str, place_of: Callable[[InstanceView], str]) -> _Wish:
    """Wishes for a place with so many copies of the model at most."""

    def wish(one: Standing) -> str:
        place = place_of(one.view)
        if (there := copies[place]) <= most:
            return ""
        return f"{what} {place} has {there} {'copy' if there == 1 else 'copies'} already"

    return wish


def _narrowed(lane: Lane, wish: _Wish) -> Lane:
    return Lane(lane.group, ([one] for one in lane if not wish(one)))
