"""Which types of model may live on which instances, by the instances' labels.

Format and meaning are those of KServe ModelMesh::

    {"onnx": {"required": ["gpu"], "preferred": ["a100"]}, "_default": {"required": ["cpu"]}}
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

#: The name under which the rule for all types that have none of their own stands.
DEFAULT_TYPE = "_default"
#: An instance that is closed to a type counts so much more than one that another type prefers; as KServe ModelMesh.
_PROHIBITED_WEIGHT = 4

Labels = frozenset[str]


@dataclass(frozen=True, slots=True)
class TypeRule:
    """What a type of model asks of an instance.

    Attributes:
        required: the instance must have all of these.
        preferred: an instance with any of these goes first.
    """

    required: Labels = frozenset()
    preferred: Labels = frozenset()

    def allows(self, labels: Labels) -> bool:
        """Whether an instance with these labels can have the type."""
        return self.required <= labels


_ANYWHERE = TypeRule()


@dataclass(frozen=True, slots=True)
class TypeConstraints:
    """The rules of a mesh; all its instances should have the same.

    Attributes:
        rules: by type; `DEFAULT_TYPE` stands for all others.
    """

    rules: Mapping[str, TypeRule] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> "TypeConstraints":
        """Reads the rules from JSON.

        Raises:
            ValueError: it is no JSON or no set of rules; the message names the type, the member and the value.
        """
        try:
            told = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON: {error}") from None
        if not isinstance(told, dict):
            raise ValueError(f"must be an object of rules by model type, is {told!r}")
        return TypeConstraints({model_type: _rule(model_type, rule) for model_type, rule in told.items()})

    @property
    def digest(self) -> str:
        """Equal for equal rules and hardly ever for others; empty where there are none."""
        if not self.rules:
            return ""
        told = sorted(
            (name, sorted(rule.required), sorted(rule.preferred)) for name, rule in self.rules.items()
        )
        return sha256(json.dumps(told).encode()).hexdigest()[:8]

    def rule_name(self, model_type: str) -> str:
        """Under which name the type's rule stands; types of one name are treated alike."""
        return model_type if model_type in self.rules else DEFAULT_TYPE

    def rule(self, model_type: str) -> TypeRule:
        """The type's own rule, else the default one, else one that asks for nothing."""
        return self.rules.get(self.rule_name(model_type), _ANYWHERE)

    def prohibited(self, labels: Labels) -> frozenset[str]:
        """The types that an instance with these labels is closed to, `DEFAULT_TYPE` among them for all others."""
        return frozenset(name for name, rule in self.rules.items() if not rule.allows(labels))

    def preferred_among(self, model_type: str, present: Iterable[Labels]) -> frozenset[Labels]:
        """Sorts out which instances go first for a type.

        Where the rule names no preference it follows from those of the others: a model that can live anywhere
        keeps away from instances that other types need or like.

        Args:
            model_type: of the model to be placed.
            present: sets of labels that instances have.

        Returns: the sets of labels that go first; empty where none goes before another.
        """
        rule = self.rule(model_type)
        eligible = [labels for labels in present if rule.allows(labels)]
        if rule.preferred:
            return frozenset(labels for labels in eligible if labels & rule.preferred)
        plainness = {labels: self._plainness(labels) for labels in eligible}
        most = max(plainness.values(), default=0)
        if min(plainness.values(), default=0) == most:
            return frozenset()
        return frozenset(labels for labels, score in plainness.items() if score == most)

    def _plainness(self, labels: Labels) -> int:
        liked = sum(1 for rule in self.rules.values() if rule.preferred & labels)
        return _PROHIBITED_WEIGHT * len(self.prohibited(labels)) - liked


def _rule(model_type: str, told: object) -> TypeRule:
    if not isinstance(told, dict):
        raise ValueError(
            f"type {model_type!r}: must be an object with 'required' or 'preferred', is {told!r}"
        )
    if unknown := sorted(set(told) - {"required", "preferred"}):
        raise ValueError(f"type {model_type!r}: {unknown[0]!r} is neither 'required' nor 'preferred'")
    return TypeRule(_labels(model_type, told, "required"), _labels(model_type, told, "preferred"))


def _labels(model_type: str, told: Mapping[str, object], member: str) -> Labels:
    labels = told.get(member)
    if labels is None:
        return frozenset()
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"type {model_type!r}: {member} must be a list of labels, is {labels!r}")
    return frozenset(labels)
