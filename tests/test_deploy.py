"""The files for containers and Kubernetes: their structure, and that they name what the program has.

Nothing is built or started here, and no schema is downloaded: the models below are the parts that the files use, and
refuse any other field.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field
from typer.main import get_command

from diffusion_local.cli import app
from diffusion_local.compose import Services
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings, names
from diffusion_local.system import network
from tests.support import REPOSITORY

DEPLOY = REPOSITORY / "assets" / "deploy"
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Labels = dict[str, str]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: Name
    labels: Labels = {}


class PodMetadata(Strict):
    labels: Labels


class Reference(Strict):
    name: Name


class Source(Strict):
    configMapRef: Reference | None = None
    secretRef: Reference | None = None


class Variable(Strict):
    name: str
    value: str


class Port(Strict):
    name: Name
    containerPort: int = Field(gt=0, lt=65536)


class HttpGet(Strict):
    path: str
    port: str | int


class Probe(Strict):
    httpGet: HttpGet
    periodSeconds: int = Field(gt=0)
    failureThreshold: int = Field(3, gt=0)


class Exec(Strict):
    command: list[str]


class Hook(Strict):
    exec: Exec


class Lifecycle(Strict):
    preStop: Hook


Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$")]


class Resources(Strict):
    requests: dict[str, Quantity | int] = {}
    limits: dict[str, Quantity | int] = {}


class Mount(Strict):
    name: Name
    mountPath: str
    readOnly: bool = False


class Container(Strict):
    name: Name
    image: str
    args: list[str]
    env: list[Variable] = []
    envFrom: list[Source]
    ports: list[Port] = []
    startupProbe: Probe | None = None
    readinessProbe: Probe | None = None
    livenessProbe: Probe | None = None
    lifecycle: Lifecycle | None = None
    resources: Resources
    volumeMounts: list[Mount]


class Claim(Strict):
    claimName: Name
    readOnly: bool = False


class Volume(Strict):
    name: Name
    emptyDir: dict[str, Any] | None = None
    persistentVolumeClaim: Claim | None = None


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class SecurityContext(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: int = Field(gt=0)
    runAsGroup: int = Field(gt=0)
    fsGroup: int


class PodSpec(Strict):
    securityContext: SecurityContext
    terminationGracePeriodSeconds: int = Field(gt=0)
    nodeSelector: Labels = {}
    tolerations: list[Toleration] = []
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume]


class Pod(Strict):
    metadata: PodMetadata
    spec: PodSpec


class Selector(Strict):
    matchLabels: Labels


class DeploymentSpec(Strict):
    replicas: int | None = Field(None, ge=0)
    selector: Selector
    template: Pod


class Deployment(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec


class ConfigMap(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class ClaimSpec(Strict):
    accessModes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"]]
    resources: Resources


class VolumeClaim(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Metadata
    spec: ClaimSpec


class ServicePort(Strict):
    name: Name
    port: int
    targetPort: str | int


class ServiceSpec(Strict):
    selector: Labels
    ports: list[ServicePort]


class Service(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: ServiceSpec


class BudgetSpec(Strict):
    minAvailable: int | None = None
    maxUnavailable: int | None = None
    selector: Selector


class Budget(Strict):
    apiVersion: Literal["policy/v1"]
    kind: Literal["PodDisruptionBudget"]
    metadata: Metadata
    spec: BudgetSpec


class ScaleTarget(Strict):
    kind: Literal["Deployment"]
    name: Name


class PrometheusTrigger(Strict):
    serverAddress: str
    query: str
    threshold: str = Field(pattern=r"^\d+$")
    activationThreshold: str = Field(pattern=r"^\d+$")


class Trigger(Strict):
    type: Literal["prometheus"]
    metadata: PrometheusTrigger


class ScaledSpec(Strict):
    scaleTargetRef: ScaleTarget
    minReplicaCount: Literal[0]
    maxReplicaCount: int = Field(gt=0)
    pollingInterval: int
    cooldownPeriod: int
    advanced: dict[str, Any] = {}
    triggers: list[Trigger] = Field(min_length=1)


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledSpec


KINDS: dict[str, type[Any]] = {
    "ConfigMap": ConfigMap,
    "Deployment": Deployment,
    "PersistentVolumeClaim": VolumeClaim,
    "PodDisruptionBudget": Budget,
    "ScaledObject": ScaledObject,
    "Service": Service,
}


def manifests(kind: str) -> list[Any]:
    found = [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    assert {each["kind"] for each in found} == set(KINDS)
    return [KINDS[kind].model_validate(each) for each in found if each["kind"] == kind]


def matches(selector: Labels, labels: Labels) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("kind", KINDS)
def test_every_manifest_has_the_structure_of_its_kind(kind: str) -> None:
    assert manifests(kind)


def test_a_field_that_is_not_known_is_seen() -> None:
    [claim] = manifests("PersistentVolumeClaim")
    with pytest.raises(ValueError, match="storageclass"):
        VolumeClaim.model_validate(claim.model_dump() | {"storageclass": "fast"})


def test_what_the_manifests_refer_to_is_there() -> None:
    deployments = manifests("Deployment")
    configs, claims = (
        {each.metadata.name for each in manifests(kind)} for kind in ("ConfigMap", "PersistentVolumeClaim")
    )
    pods = [each.spec.template for each in deployments]
    for each in deployments:
        assert matches(each.spec.selector.matchLabels, each.spec.template.metadata.labels), each.metadata.name
    for selector in (
        *(each.spec.selector.matchLabels for each in manifests("PodDisruptionBudget")),
        *(each.spec.selector for each in manifests("Service")),
    ):
        assert [matches(selector, pod.metadata.labels) for pod in pods].count(True) == 1
    assert {each.spec.scaleTargetRef.name for each in manifests("ScaledObject")} <= {
        each.metadata.name for each in deployments
    }
    for pod in pods:
        volumes = {volume.name for volume in pod.spec.volumes}
        for volume in pod.spec.volumes:
            assert (volume.emptyDir is None) != (volume.persistentVolumeClaim is None)
            assert volume.persistentVolumeClaim is None or volume.persistentVolumeClaim.claimName in claims
        for container in pod.spec.containers:
            assert {mount.name for mount in container.volumeMounts} == volumes
            assert {s.configMapRef.name for s in container.envFrom if s.configMapRef} <= configs
            ports = {port.name for port in container.ports}
            for probe in (container.startupProbe, container.readinessProbe, container.livenessProbe):
                assert probe is None or probe.httpGet.port in ports


def test_web_pods_are_probed_and_workers_drain() -> None:
    web = next(each for each in manifests("Deployment") if each.metadata.name == "web")
    assert web.spec.template.spec.containers[0].readinessProbe is not None
    assert web.spec.replicas >= 2
    workers = [each for each in manifests("Deployment") if each.metadata.name != "web"]
    scaled = {each.spec.scaleTargetRef.name for each in manifests("ScaledObject")}
    for each in workers:
        assert each.spec.replicas is None  # or an update would undo what KEDA set
        assert each.metadata.name in scaled
        container = each.spec.template.spec.containers[0]
        assert Variable(name=f"{ENVIRONMENT_PREFIX}ON_STOP", value="finish") in container.env
        assert each.spec.template.spec.terminationGracePeriodSeconds >= 120


def test_the_scaler_asks_for_metrics_that_there_are(services: Services) -> None:
    from prometheus_client import CollectorRegistry

    from diffusion_local.web.health import Numbers

    services.studio.submit("a red apple", width=128, height=128, steps=2)
    registry = CollectorRegistry()
    registry.register(Numbers(services.studio, services.settings))
    result = generate_latest(registry).decode()
    for each in manifests("ScaledObject"):
        asked = re.findall(r"diffusion_local_\w+", each.spec.triggers[0].metadata.query)
        assert "diffusion_local_claimable_jobs" in asked
        assert all(re.search(rf"^{name}\{{", result, re.MULTILINE) for name in asked)


# -- what the containers run -------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def commands() -> Iterator[list[str]]:
    for each in manifests("Deployment"):
        yield each.spec.template.spec.containers[0].args
    for service in compose()["services"].values():
        if service["image"].startswith("diffusion-local:"):
            yield service["command"]
    yield yaml.safe_load(re.search(r"^CMD (\[.*\])$", dockerfile(), re.MULTILINE)[1])  # type: ignore[index]


def environments() -> Iterator[str]:
    for config in manifests("ConfigMap"):
        yield from config.data
    for each in manifests("Deployment"):
        yield from (variable.name for variable in each.spec.template.spec.containers[0].env)
    for service in compose()["services"].values():
        yield from service["environment"]
    yield from re.findall(rf"\b({ENVIRONMENT_PREFIX}\w+)=", dockerfile())


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_containers_run_commands_and_options_that_there_are() -> None:
    root = get_command(app)
    for words in commands():
        command = root.commands[words[0]]  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_containers_are_given_settings_that_there_are() -> None:
    ours = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in environments() if name.startswith(ENVIRONMENT_PREFIX)
    }
    assert {"database", "gallery", "on_stop"} <= ours <= set(names())


def test_the_compose_file_refers_to_what_is_there() -> None:
    found = compose()
    services, volumes = found["services"], set(found["volumes"])
    assert {"web", "worker", "postgres", "s3"} <= set(services)
    assert services["worker"]["deploy"]["replicas"] == 2
    known = {"image", "build", "environment", "restart", "depends_on", "command", "ports", "volumes", "healthcheck"}
    for name, service in services.items():
        assert set(service) <= known | {"deploy", "stop_grace_period", "entrypoint"}, name
        assert set(service.get("depends_on", ())) <= set(services), name
        assert {mount.split(":")[0] for mount in service.get("volumes", ())} <= volumes, name
    context = (DEPLOY / services["web"]["build"]["context"]).resolve()
    assert (context / services["web"]["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_no_secret_is_written_into_a_file() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(PASSWORD|SECRET|KEY)\w*[:=]\s*['\"]?(?!\$|\.\.\.)[A-Za-z0-9+/]{6,}", text), path


def test_the_dockerfile_copies_what_there_is_and_does_not_run_as_root() -> None:
    text = dockerfile()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        assert all((REPOSITORY / source).exists() for source in line.split()[:-1]), line
    extras = set(re.search(r'"\.\[(.+)\]"', text)[1].split(","))  # type: ignore[index]
    declared = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras)
    assert re.search(r"^USER \d+", text, re.MULTILINE)


def test_volumes_are_mounted_at_folders_that_the_program_may_write() -> None:
    """A volume at a folder that the image lacks belongs to root."""
    made = re.search(r"install -d -o studio -g studio -m 700 (.+)$", dockerfile(), re.MULTILINE)
    assert made is not None
    mounts = [mount.split(":") for name in ("web", "worker") for mount in compose()["services"][name]["volumes"]]
    assert {target for _, target, *_ in mounts} <= set(made[1].split())


def test_a_page_starts_only_with_an_account_and_each_file_says_how_to_make_it(settings: Settings) -> None:
    """As the containers start it; ``user add`` therefore comes first."""
    _, *arguments = compose()["services"]["web"]["command"]
    assert arguments[:2] == ["--host", "0.0.0.0"]
    assert network.refusal_reason(replace(settings, host="0.0.0.0"), has_accounts=False)
    for path in (DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "studio.yaml"):
        head = path.read_text(encoding="utf-8").partition("\nname:")[0].partition("\napiVersion:")[0]
        assert head.index("user add ann") < max(head.rfind("compose.yaml up"), head.rfind(" apply -f ")), path.name


def test_the_folder_has_what_the_manual_names() -> None:
    assert {path.relative_to(DEPLOY).parts[0] for path in DEPLOY.rglob("*")} == {
        "Dockerfile",
        "compose.yaml",
        "kubernetes",
    }
    assert Path(DEPLOY / "kubernetes").is_dir()
