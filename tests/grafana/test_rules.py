"""Recording and alert rules, by Prometheus' own tool."""

import re
from pathlib import Path

import pytest

from tests.servers.prometheus import promtool

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yaml"))
_ALERT = re.compile(r"^\s+- alert: (\w+)$", re.MULTILINE)


def test_rules_are_well_formed(prometheus_program: Path) -> None:
    promtool(prometheus_program, "check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("scenario", ["healthy", "alerts"])
def test_alerts_fire_when_they_should_and_only_then(prometheus_program: Path, scenario: str) -> None:
    folder = FOLDER / "tests"
    promtool(prometheus_program, "test", "rules", f"{scenario}.yaml", cwd=folder)


def test_every_alert_is_seen_to_fire_and_says_what_to_do() -> None:
    text = (FOLDER / "rules" / "alerts.yaml").read_text()
    scenarios = (FOLDER / "tests" / "alerts.yaml").read_text()
    alerts = _ALERT.findall(text)
    assert len(alerts) > 10
    for alert in alerts:
        assert f'ALERTS{{alertname="{alert}",alertstate="firing"' in scenarios, alert
    for part in ("summary:", "description:", "severity:"):
        assert text.count(part) == len(alerts), part
