"""The way of docs/observability.md from ``mesh up`` to a graph."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cli.laptop import monitoring
from mesh.cli.laptop.plan import PlanError
from tests.adapters.samples import SVM
from tests.cli.laptops import running_laptop
from tests.cli.test_plan import free_ports
from tests.grafana.test_rules import FOLDER
from tests.servers.prometheus import PrometheusServer, promtool


@pytest.mark.timeout(180)
def test_from_mesh_up_to_a_graph(tmp_path: Path, prometheus_program: Path) -> None:
    model = SVM.copy_to(tmp_path / "models" / "digits")
    (model.parent / "mesh.json").write_text(json.dumps({"type": SVM.format, "path": model.name}))
    shutil.copytree(FOLDER / "rules", tmp_path / "prometheus" / "rules")
    config = tmp_path / "prometheus" / "prometheus.yml"
    port = free_ports(4)
    arguments = [
        *("--instances", "2", "--models", str(tmp_path / "models"), "--state", str(tmp_path / "s")),
        *("--metrics-port", str(port + 2), "--prometheus-config", str(config)),
    ]
    with running_laptop(tmp_path / "laptop", port, *arguments) as laptop:
        laptop.wait_for(f"prometheus --config.file={config}")
        promtool(prometheus_program, "check", "config", config)
        prometheus = PrometheusServer(prometheus_program, tmp_path, config)
        prometheus.start()
        asyncio.run(SVM.check(f"127.0.0.1:{port}", "digits", mm_model_id="digits"))

        def value(query: str) -> float:
            return sum(value for _, value in prometheus.query(query))

        _eventually(lambda: value('modelmesh_instance_ready{namespace="laptop"}') == 2)
        asked = f'modelmesh_api_request_milliseconds_count{{pod="laptop-{port}",modelId="digits"}}'
        _eventually(lambda: value(asked) >= 1)
        assert value('modelmesh_models_managed_total{job="mesh"}') == 1
        _eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
        assert len(prometheus.rules()) > 20
        prometheus.process.kill()


def test_a_configuration_that_somebody_wrote_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    monitoring.check(file)
    monitoring.write(file, monitoring.configuration([], "127.0.0.1"))
    monitoring.check(file)
    file.write_text("global: {}\n")
    with pytest.raises(PlanError, match=r"prometheus.yml is there already, and not of `mesh up`"):
        monitoring.check(file)
    with pytest.raises(PlanError, match=r"there is no directory .*/missing"):
        monitoring.check(tmp_path / "missing" / "prometheus.yml")


def _eventually(check: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.2)
