"""The files of a team's deployment can be read, fit the code, and hold no secret."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import yaml
from flow_workspaces import ROOT

INFRA = ROOT / "infra"
DEPLOYMENTS = yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"]


def manifests() -> list[dict]:
    return [d for path in sorted((INFRA / "kubernetes").glob("*.yaml")) for d in yaml.safe_load_all(path.read_text())]


def test_deployments_fit_the_flow():
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy
    from prefect.flows import load_flow_from_entrypoint

    assert {d["work_pool"]["name"] for d in DEPLOYMENTS} == {"florence", "florence-kubernetes"}
    for deployment in DEPLOYMENTS:
        module, name = deployment["entrypoint"].rsplit(".", 1)
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        assert flow is getattr(importlib.import_module(module), name)
        inspect.signature(flow.fn).bind(**deployment["parameters"])
        flow.validate_parameters(deployment["parameters"])
        assert deployment["concurrency_limit"]["limit"] == 1
        assert (
            ConcurrencyLimitStrategy(deployment["concurrency_limit"]["collision_strategy"])
            is ConcurrencyLimitStrategy.CANCEL_NEW
        )


def test_the_schedule_here_is_what_is_deployed():
    from flows.schedule import build_deployment

    scheduled = build_deployment(Path("/workspace"), "0 3 * * *")
    deployed = DEPLOYMENTS[0]
    assert scheduled.entrypoint == deployed["entrypoint"] and scheduled.name == deployed["name"]
    assert scheduled.parameters["root"] == deployed["parameters"]["root"]
    assert scheduled.concurrency_limit == deployed["concurrency_limit"]["limit"]
    assert scheduled.concurrency_options.collision_strategy.value == deployed["concurrency_limit"]["collision_strategy"]
    assert [s.schedule.cron for s in scheduled.schedules] == [s["cron"] for s in deployed["schedules"]]


def test_compose_names_what_it_has_and_no_secret():
    document = yaml.safe_load((INFRA / "compose.yaml").read_text())
    services = document["services"]
    assert {"postgres", "s3", "mlflow", "prefect", "worker"} <= set(services)
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in document["volumes"]
        for key, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|KEY_ID", key):
                assert re.fullmatch(r"\$\{\w+:\?.*\}", value), key
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_kubernetes_manifests_name_what_they_have():
    found = manifests()
    names = {(d["kind"], d["metadata"]["name"]) for d in found}
    assert all(d.get("apiVersion") and d["metadata"]["namespace"] == "florence" for d in found)
    for document in found:
        if document["kind"] == "Deployment":
            spec = document["spec"]["template"]["spec"]
            assert document["spec"]["selector"]["matchLabels"] == document["spec"]["template"]["metadata"]["labels"]
            for volume in spec.get("volumes", []):
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        if document["kind"] == "Service":
            assert ("Deployment", document["spec"]["selector"]["app"]) in names


def test_the_work_pool_has_a_variable_for_every_place():
    pool = json.loads((INFRA / "kubernetes/work-pool.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(pool["job_configuration"])))
    assert used == set(pool["variables"]["properties"])
    variables = {
        key
        for d in DEPLOYMENTS
        if d["work_pool"]["name"] == "florence-kubernetes"
        for key in d["work_pool"]["job_variables"]
    }
    assert variables <= used


def test_no_file_here_holds_a_secret():
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not re.search(
                r"AKIA[0-9A-Z]{16}|(?i:password|secret_access_key)\s*[:=]\s*[\"']?[A-Za-z0-9/+]{8,}", path.read_text()
            ), path


def test_the_readme_names_every_file():
    text = (INFRA / "README.md").read_text()
    for path in INFRA.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert str(path.relative_to(INFRA)) in text, path
