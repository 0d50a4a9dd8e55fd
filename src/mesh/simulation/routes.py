"""Which copies a simulated instance takes to be usable."""

from typing import TYPE_CHECKING

from mesh.placement import CopySeen, Usable, usable_copies
from mesh.simulation.models import Model

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: A peer's word counts for so long without the registry showing it; as in an instance.
WORD_TTL_US = 10_000_000
#: A peer that did not answer is avoided for so long; as in an instance.
SUSPICION_TTL_US = 5_000_000


_NO_COPIES = usable_copies((), 0.0, 0)


class Routes:
    """What one simulated instance knows of copies beyond the registry."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._words: dict[str, dict[str, int]] = {}
        self._suspects: dict[str, int] = {}

    def note_loaded(self, model_id: str, instance_id: str) -> None:
        """A peer said that it has the model loaded."""
        if len(self._words) > 1_000:
            self._forget_old_words()
        self._words.setdefault(model_id, {})[instance_id] = self._instance.agenda.now_us + WORD_TTL_US

    def _forget_old_words(self) -> None:
        now_us = self._instance.agenda.now_us
        self._words = {
            model_id: words for model_id, words in self._words.items() if max(words.values()) > now_us
        }

    def note_absent(self, model_id: str, instance_id: str) -> None:
        """A peer said that it has no copy."""
        words = self._words.get(model_id)
        if words is not None:
            words.pop(instance_id, None)
            if not words:
                del self._words[model_id]

    def note_unreachable(self, instance_id: str) -> None:
        """A peer does not answer."""
        self._suspects[instance_id] = self._instance.agenda.now_us + SUSPICION_TTL_US

    def suspects(self) -> frozenset[str]:
        """Peers that did not answer a short while ago."""
        if not self._suspects:
            return frozenset()
        now_us = self._instance.agenda.now_us
        self._suspects = {name: until_us for name, until_us in self._suspects.items() if until_us > now_us}
        return frozenset(self._suspects)

    def usable(self, model: Model) -> Usable:
        """The copies to which requests may go, this instance's own among them."""
        instance, model_id = self._instance, model.model_id
        own_id, now_ms, now_us = instance.instance_id, instance.now_ms, instance.agenda.now_us
        serving = model_id in instance.loader.serving
        words = self._words.get(model_id, {})
        started = {name: now_ms for name, until_us in words.items() if until_us > now_us}
        confirmed = set(started)
        record = instance.client.model(model_id)
        if not (started or serving or (record is not None and record.copies)) and (
            model_id not in instance.loader.wanted
        ):
            return _NO_COPIES
        if record is not None:
            started |= record.copies
            confirmed.update(record.ready)
        if serving or model_id in instance.loader.wanted:
            started.setdefault(own_id, now_ms)
        else:
            started.pop(own_id, None)
        suspects = self.suspects()
        seen = []
        for name, started_ms in started.items():
            if name == own_id:
                seen.append(CopySeen(name, started_ms if serving else now_ms, confirmed=serving))
            elif (peer := instance.seen.records.get(name)) is not None:
                seen.append(
                    CopySeen(
                        name,
                        started_ms,
                        confirmed=name in confirmed,
                        doubtful=name in suspects or peer.shutting_down,
                    )
                )
        return usable_copies(seen, instance.load_times.assume_loaded_ms(model.type), now_ms)
