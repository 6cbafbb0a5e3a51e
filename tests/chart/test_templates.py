"""What must hold for every object that the chart makes, whatever the values; and what single values do."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import CHART, CI_VALUES, NAMESPACE, RELEASE, Rendered, RenderError, plain_and_encoded, render_chart, tool

from programs import KUBERAY
from synthmix.adapter_training.model_importing import most_model_bytes
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit.check_health import HEALTH_PATH
from synthmix.service_kit.environment import (
    SERVICES,
    WORKER_SERVICES,
    HubSettings,
    SweepSettings,
    hub_settings,
    sweep_settings,
    worker_settings,
)
from synthmix.service_kit.minio_user import bucket_policy

PREFIX = f"{RELEASE}-synthmix"
WORKER_GROUPS = ("adapter-training", "image-synthesis", "classifier-evaluation", "study-control")
API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def size_bytes(quantity: str) -> int:
    digits = re.match(r"\d+", quantity)
    assert digits
    return int(digits[0]) * UNITS[quantity[digits.end() :]]


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_helm_finds_nothing_to_say_against_it(values: Path) -> None:
    command = [tool("helm"), "lint", "--strict", "--kube-version", "1.34.0", "--values", str(values), str(CHART)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_name_is_one_object_and_labelled(rendered: Rendered) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in rendered.objects]
    assert len(set(names)) == len(names)
    for item in rendered.objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert len(item["metadata"]["name"]) <= 63


def test_pods_are_what_the_level_restricted_admits(rendered: Rendered) -> None:
    for name, pod in rendered.pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.get("hostNetwork") and not spec.get("hostPID"), name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounted, f"{name} has a read-only root and nowhere to write"
            assert {mount["name"] for mount in container["volumeMounts"]} <= (
                {volume["name"] for volume in spec["volumes"]} | {"data"}
            ), name


def test_tokens_of_the_cluster_are_mounted_only_where_they_are_used(rendered: Rendered) -> None:
    allowed = {f"{PREFIX}-{service}" for service in SERVICES}
    for name, pod in rendered.pods():
        assert name in allowed or pod["spec"]["automountServiceAccountToken"] is False, name
    for account in rendered.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, account["metadata"]["name"]
    for cluster in rendered.of_kind("RayCluster"):
        head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
        [volume] = [volume for volume in head["volumes"] if volume["name"] == "kubernetes-api"]
        assert {key for source in volume["projected"]["sources"] for key in source} == {
            "serviceAccountToken",
            "configMap",
            "downwardAPI",
        }
        mount = {"name": "kubernetes-api", "mountPath": API_TOKEN, "readOnly": True}
        assert mount in cluster["spec"]["autoscalerOptions"]["volumeMounts"]
        assert [item for container in head["containers"] for item in container["volumeMounts"] if item == mount] == []


@pytest.mark.parametrize("accepted", [True, False], ids=["with the cluster's tokens", "with static tokens alone"])
def test_who_calls_services_has_a_token_and_nobody_else(accepted: bool) -> None:
    for values in ([], [CHART / "ci" / "plain-ray-values.yaml"]):
        chart = render_chart(values, [f"access.kubernetes.enabled={str(accepted).lower()}"])
        callers = {f"{PREFIX}-study-control", *(name for name, _ in chart.pods() if name.endswith("ray-head"))}
        front_ends = {f"{PREFIX}-{service}" for service in SERVICES}
        for name, pod in chart.pods():
            settings = environment(pod["spec"]["containers"][0]) if "env" in pod["spec"]["containers"][0] else {}
            said = {key for key in settings if key.startswith("SYNTHMIX") and "TOKEN" in key}
            volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
            mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
            expected = {"SYNTHMIX_TOKEN_FOLDER", "SYNTHMIX_TOKEN_OWNER"} if name in front_ends else set()
            if name.endswith("-synthmix-test"):
                expected = {"SYNTHMIX_TOKEN_FILE"}
            if name in callers or name == f"{PREFIX}-ray-head":
                expected |= {"SYNTHMIX_SERVICE_TOKEN_FILE"} if accepted else {"SYNTHMIX_TOKEN_FOLDER"}
            assert said == expected, name
            files = {"SYNTHMIX_TOKEN_FOLDER", "SYNTHMIX_TOKEN_FILE"}
            assert ("static-token" in mounted) == (not files.isdisjoint(said)), name
            assert ("service-token" in mounted) == ("SYNTHMIX_SERVICE_TOKEN_FILE" in said), name
            assert volumes.keys() & {"static-token", "service-token"} == mounted & {"static-token", "service-token"}
            if "service-token" in volumes:
                [source] = volumes["service-token"]["projected"]["sources"]
                audience = source["serviceAccountToken"]["audience"]
                control = environment(
                    chart.get("Deployment", f"{PREFIX}-adapter-training")["spec"]["template"]["spec"]["containers"][0]
                )
                assert control["SYNTHMIX_SERVICES_AUDIENCE"] == audience != control["SYNTHMIX_KUBERNETES_AUDIENCE"]
                account = f"system:serviceaccount:{NAMESPACE}:{pod['spec']['serviceAccountName']}"
                assert account in control["SYNTHMIX_SERVICE_ACCOUNTS"].split(",")
                chart.get("ServiceAccount", pod["spec"]["serviceAccountName"])


def test_study_controls_right_to_the_ray_cluster_is_narrowed_where_it_has_it() -> None:
    [policy] = render_chart().of_kind("ValidatingAdmissionPolicy")
    [binding] = render_chart().of_kind("ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"] == f"{NAMESPACE}-{PREFIX}-worker-bounds"
    assert binding["spec"]["validationActions"] == ["Deny"] and policy["spec"]["failurePolicy"] == "Fail"
    [condition] = policy["spec"]["matchConditions"]
    assert f"'system:serviceaccount:{NAMESPACE}:{PREFIX}-study-control'" in condition["expression"]
    for values, options in (([CHART / "ci" / "plain-ray-values.yaml"], []), ([], ["access.clusterRoles=false"])):
        assert not render_chart(values, options).of_kind("ValidatingAdmissionPolicy")


def test_no_pod_writes_more_than_its_disk(rendered: Rendered) -> None:
    """What has no limit fills the node; what is beyond its own limit ends the pod."""
    for name, pod in rendered.pods():
        spec = pod["spec"]
        volumes = [volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume]
        assert all("sizeLimit" in volume for volume in volumes), name
        on_disk = sum(size_bytes(volume["sizeLimit"]) for volume in volumes if volume.get("medium") != "Memory")
        requested, limit = (
            sum(disk_bytes(item, part) for item in spec["containers"]) for part in ("requests", "limits")
        )
        assert limit >= on_disk, name
        assert on_disk / 4 <= requested <= limit, name


def disk_bytes(container: dict[str, Any], part: str) -> int:
    return size_bytes(container["resources"][part]["ephemeral-storage"])


def test_a_release_with_a_gpu_worker_fits_on_a_small_node() -> None:
    """Of a disk of 100 GB, GKE leaves 43.8 GiB to pods, as its documentation shows by a node's `allocatable`."""
    chart = render_chart()
    replicas = {
        item["metadata"]["name"]: item["spec"]["replicas"]
        for kind in ("Deployment", "StatefulSet")
        for item in chart.of_kind(kind)
    }
    [autoscaler] = [item["spec"]["autoscalerOptions"] for item in chart.of_kind("RayCluster")]
    requested = disk_bytes(autoscaler, "requests") + sum(
        replicas.get(name, 1) * disk_bytes(container, "requests")
        for name, pod in chart.pods()
        if name not in ("image-synthesis", "classifier-evaluation")  # workers, of which one at a time has the GPU
        for container in pod["spec"]["containers"]
    )
    assert requested < 43.8 * 2**30, f"{requested / 2**30:.1f} GiB"
    # What the caches may hold is unchanged: a worker's takes a model of the hub's of the largest size that is allowed.
    pods = dict(chart.pods())
    for name in WORKER_SERVICES:
        settings = environment(pods[name]["spec"]["containers"][0])
        assert int(settings["SYNTHMIX_CACHE_MOST_BYTES"]) > int(settings["SYNTHMIX_HUB_MODEL_MOST_BYTES"]), name


def test_caches_and_uploads_stay_within_their_volumes(rendered: Rendered) -> None:
    for name, pod in rendered.pods():
        settings = environment(pod["spec"]["containers"][0]) if "env" in pod["spec"]["containers"][0] else {}
        limits = {volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in pod["spec"]["volumes"]}
        if "SYNTHMIX_CACHE_MOST_BYTES" not in settings:
            assert "cache" not in limits, name
            continue
        assert 0.8 < int(settings["SYNTHMIX_CACHE_MOST_BYTES"]) / size_bytes(limits["cache"]) < 0.95, name
        assert settings["SYNTHMIX_CACHE_FREE_PERCENT"] == "15", "the kubelet evicts pods from 10 % on"
        upload_bytes = int(settings["SYNTHMIX_UPLOAD_MOST_BYTES"])
        if name == f"{PREFIX}-study-control":
            assert upload_bytes <= int(settings["SYNTHMIX_RECEIVING_MOST_BYTES"]) < size_bytes(limits["tmp"])
        if name.removeprefix(f"{PREFIX}-ray-") in ("study-control", "image-synthesis"):
            assert upload_bytes < size_bytes(limits["tmp"])


def test_bounds_of_imports_are_bytes() -> None:
    chart = render_chart(set_values=["imports.upload=1.5Gi", "imports.size=2T", "imports.files=3000000"])
    for name in ("study-control", f"{PREFIX}-study-control"):
        settings = environment(dict(chart.pods())[name]["spec"]["containers"][0])
        assert settings["SYNTHMIX_UPLOAD_MOST_BYTES"] == str(3 * 2**29)
        assert settings["SYNTHMIX_IMPORT_MOST_BYTES"] == str(2 * 10**12)
        assert settings["SYNTHMIX_IMPORT_MOST_FILES"] == "3000000"


def test_imports_run_apart_from_the_head_and_without_a_gpu() -> None:
    spec = render_chart().get("RayCluster", f"{PREFIX}-ray")["spec"]
    assert spec["headGroupSpec"]["labels"] == {"synthmix.io/operation-hosts": "true"}
    [group] = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "study-control"]
    assert group["labels"] == {"synthmix.io/study-control": "true"}
    pod = group["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False and "tolerations" not in pod
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert environment(pod["containers"][0])["SYNTHMIX_STUDY_CONTROL_GPUS"] == "0"


def test_selectors_find_the_pods_that_they_mean(rendered: Rendered) -> None:
    labels = [pod["metadata"].get("labels", {}) for _, pod in rendered.pods()]

    def found(selector: dict[str, str]) -> int:
        return sum(selector.items() <= item.items() for item in labels)

    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for item in rendered.of_kind(kind):
            assert found(item["spec"]["selector"]["matchLabels"]) == 1, item["metadata"]["name"]
    for item in rendered.of_kind("Service"):
        assert found(item["spec"]["selector"]) == 1, item["metadata"]["name"]
        assert item["spec"]["clusterIP"] == "None", "clients spread calls over pods themselves"
    for item in rendered.of_kind("NetworkPolicy"):
        assert found(item["spec"]["podSelector"].get("matchLabels", {})) >= 1, item["metadata"]["name"]


def test_no_secret_is_said_outside_of_secrets(rendered: Rendered) -> None:
    secrets = [value for item in rendered.of_kind("Secret") for value in item["data"].values()]
    others = yaml.safe_dump([item for item in rendered.objects if item["kind"] != "Secret"])
    assert not [value for value in plain_and_encoded(secrets) if value in others]
    for name, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            for item in container.get("env", []):
                is_path = item.get("value", "").startswith("/etc/synthmix/")
                if re.search(r"TOKEN$|_KEY$|PASSWORD$", item["name"]) and not is_path:
                    assert "secretKeyRef" in item["valueFrom"], f"{name}: {item['name']}"


def test_minios_root_keys_are_in_its_pod_and_in_its_job_alone(rendered: Rendered) -> None:
    """Of the name that they had when every pod held them, so that in an upgrade none loses its keys before it ends."""
    reference = f"name: {PREFIX}-object-storage\n"
    holders = {name for name, pod in rendered.pods() if reference in yaml.safe_dump(pod)}
    has_minio = any(item["metadata"]["name"] == f"{PREFIX}-minio" for item in rendered.of_kind("StatefulSet"))
    assert {name.rpartition("-bucket-")[0] or name for name in holders} == (
        {PREFIX, f"{PREFIX}-minio"} if has_minio else set()
    )


def test_the_job_makes_the_user_whose_keys_services_and_workers_hold() -> None:
    chart = render_chart(
        set_values=["objectStorage.existingSecret=users-keys", "objectStorage.existingRootSecret=root-keys"]
    )
    held = {
        name: {
            variable: settings["secretKeyRef"]["name"]
            for variable, settings in environment(pod["spec"]["containers"][0]).items()
            if re.search("_(ACCESS|SECRET)_KEY$|^MINIO_ROOT_", variable)
        }
        for name, pod in chart.pods()
        if "env" in pod["spec"]["containers"][0]
    }
    users = {"SYNTHMIX_OBJECT_STORE_ACCESS_KEY": "users-keys", "SYNTHMIX_OBJECT_STORE_SECRET_KEY": "users-keys"}
    root = {"SYNTHMIX_OBJECT_STORE_ROOT_ACCESS_KEY": "root-keys", "SYNTHMIX_OBJECT_STORE_ROOT_SECRET_KEY": "root-keys"}
    assert held.pop(f"{PREFIX}-minio") == {"MINIO_ROOT_USER": "root-keys", "MINIO_ROOT_PASSWORD": "root-keys"}
    assert held.pop(chart.of_kind("Job")[0]["metadata"]["name"]) == users | root
    assert held.pop(f"{PREFIX}-test") == {}
    assert len(held) == len(SERVICES) + 1 + len(WORKER_GROUPS)
    assert all(keys == users for keys in held.values())


def test_the_documents_say_the_policy_that_minios_user_has() -> None:
    [policy] = re.findall(r"```json\n(.*?)```", (CHART / "README.md.gotmpl").read_text(), re.DOTALL)
    assert json.loads(policy) == bucket_policy("synthmix")


def test_front_ends_have_native_probes_and_find_one_another() -> None:
    chart = render_chart()
    for service in SERVICES:
        pod = chart.get("Deployment", f"{PREFIX}-{service}")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert container["args"] == [f"synthmix.{service.replace('-', '_')}"]
        assert all(container[probe]["grpc"] == {"port": 50051} for probe in ("startupProbe", "readinessProbe"))
        settings = environment(container)
        for other in SERVICES:
            variable = f"SYNTHMIX_{other.upper().replace('-', '_')}_ADDRESS"
            assert settings[variable] == f"{PREFIX}-{other}:50051"
            assert chart.get("Service", f"{PREFIX}-{other}")["spec"]["ports"][0]["port"] == 50051
        assert settings["SYNTHMIX_RAY_ADDRESS"] == f"ray://{PREFIX}-ray-head-svc:10001"
    assert chart.get("Deployment", f"{PREFIX}-study-control")["spec"]["replicas"] == 2


@pytest.mark.parametrize("own", [True, False], ids=["a Secret", "cert-manager"])
def test_tls_is_served_by_whom_others_trust(own: bool) -> None:
    settings = ["tls.existingSecret=ours"] if own else ["tls.issuer.name=lab"]
    chart = render_chart(set_values=["tls.enabled=true", *settings])
    certificates = chart.of_kind("Certificate")
    secret = "ours" if own else certificates[0]["spec"]["secretName"]
    assert len(certificates) == (0 if own else 1)
    servers = {f"{PREFIX}-{name}" for name in (*SERVICES, "minio")}
    for name, pod in chart.pods():
        [container, *_] = pod["spec"]["containers"]
        held = [volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "tls"]
        assert [volume["secretName"] for volume in held] == [secret], name
        keys = {item["key"] for item in held[0].get("items", [{"key": "tls.key"}])}
        assert ("tls.key" in keys) == (name in servers), f"{name} has {keys}"
        variables = environment(container)
        if name == f"{PREFIX}-minio":
            assert all(container[probe]["httpGet"]["scheme"] == "HTTPS" for probe in ("startupProbe", "livenessProbe"))
            continue
        authority = "/etc/synthmix/tls/ca.crt"
        assert variables.get("SYNTHMIX_TLS_CA", authority) == authority, name
        if "SYNTHMIX_OBJECT_STORE_ENDPOINT" in variables:
            assert variables["SYNTHMIX_OBJECT_STORE_ENDPOINT"] == f"https://{PREFIX}-minio:9000"
            assert variables["SYNTHMIX_OBJECT_STORE_CA"] == authority
        called = [value.partition(":")[0] for key, value in variables.items() if re.match("SYNTHMIX_.*_ADDRESS$", key)]
        assert "SYNTHMIX_TLS_CA" in variables or not called, name
        for host in (*called, f"{PREFIX}-minio"):
            assert own or host in certificates[0]["spec"]["dnsNames"] or host.startswith("ray")
        if name in servers:
            assert variables["SYNTHMIX_TLS_KEY"] == "/etc/synthmix/tls/tls.key"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": HEALTH_PATH, "port": "metrics"}, name
    for service in SERVICES:
        annotations = chart.get("Service", f"{PREFIX}-{service}")["metadata"]["annotations"]
        assert annotations["synthmix.io/tls-secret"] == secret


def test_seaweedfs_serves_tls_as_minio_does() -> None:
    chart = render_chart([CHART / "ci" / "seaweedfs-values.yaml"], ["tls.enabled=true", "tls.issuer.name=lab"])
    pod = chart.get("StatefulSet", f"{PREFIX}-seaweedfs")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {"-s3.cert.file=/etc/synthmix/tls/tls.crt", "-s3.key.file=/etc/synthmix/tls/tls.key"} <= {*container["args"]}
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert {"name": "tls", "mountPath": "/etc/synthmix/tls", "readOnly": True} in container["volumeMounts"]
    front_end = environment(dict(chart.pods())[f"{PREFIX}-study-control"]["spec"]["containers"][0])
    assert front_end["SYNTHMIX_OBJECT_STORE_ENDPOINT"] == f"https://{PREFIX}-minio:9000"
    assert front_end["SYNTHMIX_OBJECT_STORE_CA"] == "/etc/synthmix/tls/ca.crt"
    assert f"{PREFIX}-minio" in chart.of_kind("Certificate")[0]["spec"]["dnsNames"]


def test_whoever_stands_before_a_server_speaks_tls_to_it() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    annotations = chart.get("Ingress", PREFIX)["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"
    [port, _] = chart.get("Service", f"{PREFIX}-study-control")["spec"]["ports"]
    assert port["appProtocol"] == "https"
    [endpoint] = chart.get("ServiceMonitor", f"{PREFIX}-minio")["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]["serverName"]) == ("https", f"{PREFIX}-minio")
    plain = render_chart(set_values=["tls.enabled=true", "tls.issuer.name=lab"])
    pods = {name: pod["metadata"]["annotations"] for name, pod in plain.pods() if "annotations" in pod["metadata"]}
    schemes = {name: notes.get("prometheus.io/scheme", "http") for name, notes in pods.items()}
    assert {name for name, scheme in schemes.items() if scheme == "https"} == {f"{PREFIX}-minio"}


def test_object_storage_elsewhere_is_trusted_by_the_authority_that_is_given() -> None:
    chart = render_chart([CHART / "ci" / "external-storage-values.yaml"])
    for name, pod in chart.pods():
        [container, *_] = pod["spec"]["containers"]
        variables = environment(container)
        if "SYNTHMIX_OBJECT_STORE_ENDPOINT" not in variables:
            continue
        assert variables["SYNTHMIX_OBJECT_STORE_CA"] == "/etc/synthmix/object-storage/ca.crt", name
        [volume] = [item["secret"] for item in pod["spec"]["volumes"] if item["name"] == "object-storage-ca"]
        assert volume == {"secretName": "s3-authority", "items": [{"key": "ca.crt", "path": "ca.crt"}]}


def test_a_worker_group_for_each_service_with_bounds_of_its_own() -> None:
    chart = render_chart(set_values=["workers.imageSynthesis.max=64", "workers.imageSynthesis.task.gpus=0.5"])
    cluster = chart.get("RayCluster", f"{PREFIX}-ray")
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": f"{PREFIX}-ray-token"}
    assert spec["autoscalerOptions"]["version"] == "v2" and spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert tuple(groups) == ("adapter-training", "classifier-evaluation", "image-synthesis", "study-control")
    for name, group in groups.items():
        assert group["labels"] == {f"synthmix.io/{name}": "true"}
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in group["template"]["spec"]["containers"][0][
            "volumeMounts"
        ]
    assert (groups["image-synthesis"]["minReplicas"], groups["image-synthesis"]["maxReplicas"]) == (0, 64)
    assert groups["adapter-training"]["maxReplicas"] == 4
    head = environment(spec["headGroupSpec"]["template"]["spec"]["containers"][0])
    assert head["SYNTHMIX_IMAGE_SYNTHESIS_GPUS"] == "0.5"
    assert head["SYNTHMIX_OPERATIONS_AT_ONCE"] == "256"
    assert (head["RAY_task_oom_retries"], head["RAY_worker_killing_policy_by_group"]) == ("0", "true")
    assert spec["headGroupSpec"]["labels"]["synthmix.io/operation-hosts"] == "true"
    worker_image = groups["image-synthesis"]["template"]["spec"]["containers"][0]["image"]
    for deployment in chart.of_kind("Deployment"):
        front_end = environment(deployment["spec"]["template"]["spec"]["containers"][0])
        assert front_end.get("SYNTHMIX_CODE_VERSION", worker_image) == worker_image


def test_front_ends_know_how_many_workers_the_autoscaler_may_start() -> None:
    def most_tasks(chart: Rendered) -> int:
        deployment = chart.get("Deployment", f"{PREFIX}-image-synthesis")
        front_end = environment(deployment["spec"]["template"]["spec"]["containers"][0])
        return worker_settings("image-synthesis", front_end).most_tasks

    values = ["workers.imageSynthesis.max=64", "workers.imageSynthesis.task.gpus=0.5"]
    assert most_tasks(render_chart(set_values=values)) == 128, "the autoscaler sees that all are wanted"
    assert most_tasks(render_chart(set_values=[*values, "ray.operator=false"])) == 0, "there is none"


def test_other_bounds_of_a_worker_group_replace_no_pod_of_ray() -> None:
    """KubeRay makes a cluster anew when anything of it has changed but these."""

    def cluster(most: int) -> dict[str, Any]:
        chart = render_chart(set_values=[f"workers.imageSynthesis.max={most}"])
        found = chart.get("RayCluster", f"{PREFIX}-ray")
        for group in found["spec"]["workerGroupSpecs"]:
            del group["replicas"], group["minReplicas"], group["maxReplicas"]
        return found

    assert cluster(8) == cluster(64)


def test_gpu_type_queue_and_placement_are_values() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    cluster = chart.get("RayCluster", f"{PREFIX}-ray")
    assert cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "imaging"
    pods = {group["groupName"]: group["template"]["spec"] for group in cluster["spec"]["workerGroupSpecs"]}
    assert pods["image-synthesis"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert pods["image-synthesis"]["runtimeClassName"] == "nvidia"
    assert pods["adapter-training"]["nodeSelector"] == {
        "pool": "training",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    }
    assert pods["adapter-training"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pods["adapter-training"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_without_the_operator_ray_is_deployments() -> None:
    chart = render_chart([CHART / "ci" / "plain-ray-values.yaml"], api_versions=[])
    assert not chart.of_kind("RayCluster")
    for group in WORKER_GROUPS:
        deployment = chart.get("Deployment", f"{PREFIX}-ray-{group}")
        arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        assert f"--address={PREFIX}-ray-head-svc:6379" in arguments
        assert f"--labels=synthmix.io/{group}=true" in arguments
        cpus = 1 if group == "study-control" else 4
        assert f"--num-cpus={cpus}" in arguments, "else Ray counts the whole node's"
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert chart.get("Deployment", f"{PREFIX}-ray-image-synthesis")["spec"]["replicas"] == 2
    chart.get("Service", f"{PREFIX}-ray-head-svc")
    [role] = chart.of_kind("Role")
    assert not [rule for rule in role["rules"] if "ray.io" in rule["apiGroups"]]


def test_the_ingress_knows_every_grpc_service() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    [ingress] = chart.of_kind("Ingress")
    paths = {
        path["path"].removeprefix("/"): path["backend"]["service"]["name"]
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    }
    [route] = chart.of_kind("GRPCRoute")
    assert paths == {
        rule["matches"][0]["method"]["service"]: rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]
    }
    protos = (CHART.parents[1] / "protos" / "synthmix").glob("*/v1/*.proto")
    with_services = {path.parent.parent.name for path in protos if "\nservice " in path.read_text()}
    services = {name.split(".")[1] for name in paths if name.startswith("synthmix.")}
    assert services == with_services
    assert studies_pb2.DESCRIPTOR.services_by_name["StudyService"].full_name in paths
    assert paths["google.longrunning.Operations"] == f"{PREFIX}-study-control"


def test_rights_are_the_least(rendered: Rendered) -> None:
    roles = [*rendered.of_kind("Role"), *rendered.of_kind("ClusterRole")]
    bindings = [*rendered.of_kind("RoleBinding"), *rendered.of_kind("ClusterRoleBinding")]
    ours = {role["metadata"]["name"] for role in roles}
    assert {binding["roleRef"]["name"] for binding in bindings} <= ours | {"system:auth-delegator"}
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] and "*" not in rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            changes = set(rule["verbs"]) - {"get", "list", "watch"}
            if rule["resources"] == ["pods/portforward"]:
                changes -= {"create"}  # pods have no lasting names
            if role["metadata"]["name"] == f"{PREFIX}-ray-head" and rule["resources"][0] in ("pods", "pods/resize"):
                changes -= {"patch"}  # as above, and the autoscaler needs it
            if changes and rule["apiGroups"] != ["synthmix.io"]:
                assert rule["resourceNames"], f"{role['metadata']['name']} may {changes} any {rule['resources']}"


def test_clients_may_become_one_account_and_no_other() -> None:
    subject = "access.clients.subjects[0]"
    options = ["access.clients.enabled=true", f"{subject}.kind=Group", f"{subject}.name=imaging"]
    chart = render_chart(set_values=options)
    [account] = [item for item in chart.of_kind("ServiceAccount") if item["metadata"]["name"] == f"{PREFIX}-client"]
    assert account["automountServiceAccountToken"] is False
    rules = {rule["resources"][0]: rule for rule in chart.get("Role", f"{PREFIX}-client-access")["rules"]}
    assert rules["serviceaccounts/token"]["resourceNames"] == [f"{PREFIX}-client"]
    assert chart.get("RoleBinding", f"{PREFIX}-client-access")["subjects"] == [{"kind": "Group", "name": "imaging"}]
    assert chart.get("Role", f"{PREFIX}-client")["rules"][0]["apiGroups"] == ["synthmix.io"]
    own = render_chart(set_values=["access.clients.enabled=true", "access.clients.serviceAccount=lab-users"])
    assert not [item for item in own.objects if item["metadata"]["name"] == f"{PREFIX}-client"]
    assert not [item for item in own.of_kind("RoleBinding") if item["metadata"]["name"] == f"{PREFIX}-client-access"]
    for service in SERVICES:
        notes = own.get("Service", f"{PREFIX}-{service}")["metadata"]["annotations"]
        assert notes["synthmix.io/client-service-account"] == "lab-users"
    assert not [item for item in render_chart().objects if "-client" in item["metadata"]["name"]]


def test_network_policies_deny_first(rendered: Rendered) -> None:
    policies = rendered.of_kind("NetworkPolicy")
    deny = rendered.get("NetworkPolicy", f"{PREFIX}-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in deny
    assert {port["port"] for rule in deny["egress"] for port in rule["ports"]} == {53}
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], f"{policy['metadata']['name']} lets everyone in"
        for rule in policy["spec"].get("egress", []):
            dns = policy["metadata"]["name"] == f"{PREFIX}-deny"
            assert rule.get("to") or dns, f"{policy['metadata']['name']} lets everything out"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["workers.imageSynthesis.maximum=3"], "additional properties 'maximum' not allowed"),
        (["workers.imageSynthesis.max=many"], "got string, want integer"),
        (["services.studyControl.replicas=0"], "minimum: got 0, want 1"),
        (["ingress.enabled=true"], "ingress.tls.existingSecret"),
        (
            ["tls.enabled=true"],
            "give tls.existingSecret (a Secret with tls.crt, tls.key and ca.crt), or tls.issuer.name",
        ),
        (["tls.issuer.kind=Authority"], "'Issuer', 'ClusterIssuer'"),
        (["gateway.enabled=true"], "gateway.parentRefs is empty"),
        (["ingress.enabled=true", "ingress.tls.existingSecret=ours"], "networkPolicy.callers is empty"),
        (["gateway.enabled=true", "gateway.parentRefs[0].name=public"], "networkPolicy.callers is empty"),
        (["networkPolicy.kubernetesApi.cidrs=null"], "missing property 'cidrs'"),
        (["workers.imageSynthesis.min=9"], "workers.imageSynthesis.min is 9, more than workers.imageSynthesis.max, 8"),
        (["workers.imageSynthesis.task.cpus=5"], "workers.imageSynthesis.task.cpus is 5, more than its pod's 4"),
        (["workers.imageSynthesis.resources.requests.cpu=500m"], "task.cpus is 4, more than its pod's 1"),
        (["workers.studyControl.task.cpus=16"], "workers.studyControl.task.cpus is 16, more than its pod's 1"),
        (["ray.head.task.cpus=1"], "additional properties 'task' not allowed"),
        (["imports.upload=much"], "does not match pattern"),
        (["imports.files=0"], "minimum: got 0, want 1"),
        (["workers.imageSynthesis.task.gpus=2"], "workers.imageSynthesis.task.gpus is 2, more than its worker's 1"),
        (["ray.operator=false", "ray.queue.kueue=imaging"], "leave ray.queue empty"),
        (["access.clients.enabled=true", "access.kubernetes.enabled=false"], "so enable both"),
        (["access.clients.role=admin"], "'viewer', 'editor'"),
        (["access.clients.subjects[0].name=ada"], "missing property 'kind'"),
        (["access.clients.subjects[0].kind=Person"], "'User', 'Group', 'ServiceAccount'"),
        (["objectStorage.minio.enabled=false"], "objectStorage.endpoint is empty"),
        (["objectStorage.seaweedfs.enabled=true"], "are both true: choose one of them"),
        (["baseModels.folders[0]=models"], "'models' does not match pattern"),
        (["baseModels.folders[0]=./models"], "does not match pattern"),
        (["baseModels.folders[0]=/models:/etc"], "does not match pattern"),
        (["baseModels.folders=/models"], "got string, want array"),
        (["baseModels.folders[0]=7"], "got number, want string"),
        (["baseModels.folder[0]=/models"], "additional properties 'folder' not allowed"),
        (["baseModels.hub.models[0]=lab"], "'lab' does not match pattern"),
        (["baseModels.hub.models[0]=lab/model@main"], "does not match pattern"),
        (["baseModels.hub.files=0"], "minimum: got 0, want 1"),
        (["baseModels.imported.files=7"], "additional properties 'files' not allowed"),
        (
            ["objectStorage.minio.enabled=false", "objectStorage.endpoint=https://s3.example"],
            "objectStorage.existingSecret is empty",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(values: list[str], said: str) -> None:
    with pytest.raises(RenderError, match=re.escape(said)):
        render_chart(set_values=values)


def test_kuberay_is_asked_for_in_the_version_that_tests_have() -> None:
    version = KUBERAY.rpartition("@v")[2]
    for path in (CHART / "README.md", CHART.parents[1] / "README.md", CHART / "templates" / "ray" / "cluster.yaml"):
        assert f"{version} or newer" in path.read_text(), path


def test_a_queue_of_kueue_admits_a_cluster_that_scales_by_itself() -> None:
    """Its webhook refuses autoscaling without the annotation, and updates without the gates."""
    cluster = render_chart([CHART / "ci" / "full-values.yaml"]).get("RayCluster", f"{PREFIX}-ray")
    assert cluster["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert group["template"]["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/elastic-job"}]
    plain = render_chart().get("RayCluster", f"{PREFIX}-ray")
    assert "annotations" not in plain["metadata"]
    assert "schedulingGates" not in plain["spec"]["headGroupSpec"]["template"]["spec"]


def test_environment_and_volumes_of_ones_own_are_everywhere_that_a_base_model_is_read() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    pods = dict(chart.pods())
    for name in ("ray-head", *WORKER_GROUPS, *(f"{PREFIX}-{service}" for service in SERVICES)):
        spec = pods[name]["spec"]
        assert environment(spec["containers"][0])["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
        inside = environment(spec["containers"][0])["NO_PROXY"].split(",")
        assert {"$(KUBERNETES_SERVICE_HOST)", f"{PREFIX}-minio", f"{PREFIX}-study-control"} <= set(inside)
        assert spec["containers"][0]["volumeMounts"][-1]["mountPath"] == "/models"
        assert spec["volumes"][-1]["name"] == "models"


def test_who_reads_base_models_knows_the_folders_that_may_be_named() -> None:
    named = ["baseModels.folders[0]=/models", "baseModels.folders[1]=/shared/our models"]
    for set_values, expected in ((named, "/models:/shared/our models"), ([], None)):
        pods = dict(render_chart(set_values=set_values).pods())
        for name in ("ray-head", *WORKER_GROUPS, *(f"{PREFIX}-{service}" for service in SERVICES)):
            found = environment(pods[name]["spec"]["containers"][0])
            assert found.get("SYNTHMIX_BASE_MODEL_FOLDERS") == expected, name


def test_who_reads_base_models_knows_the_models_of_the_hub_that_may_be_named() -> None:
    commit = "0" * 40
    given = [f"baseModels.hub.models={{lab/*,other/model@{commit}}}", "baseModels.hub.size=4Gi"]
    for set_values, models, most_bytes in (
        (given, f"lab/* other/model@{commit}", 4 << 30),
        (["baseModels.hub.models=null"], "", 16 << 30),
    ):
        pods = dict(render_chart(set_values=set_values).pods())
        for name in ("ray-head", *WORKER_GROUPS, *(f"{PREFIX}-{service}" for service in SERVICES)):
            settings = hub_settings(environment(pods[name]["spec"]["containers"][0]))
            assert settings == HubSettings(tuple(models.split()), 100, most_bytes), name


def test_who_imports_base_models_knows_how_large_one_may_be() -> None:
    for set_values, most_bytes in ((["baseModels.imported.size=4Gi"], 4 << 30), ([], 16 << 30)):
        pods = dict(render_chart(set_values=set_values).pods())
        found = environment(pods[f"{PREFIX}-adapter-training"]["spec"]["containers"][0])
        assert most_model_bytes(found) == most_bytes


def test_sweeps_go_by_the_values() -> None:
    given = {"graceHours": 2, "uploadHours": 24, "checkpointHours": 48, "laidAsideHours": 3}
    set_values = [f"objectStorage.sweep.{name}={hours}" for name, hours in given.items()]
    for values, expected in ((set_values, SweepSettings(2, 24, 48, 3)), ([], SweepSettings())):
        pods = dict(render_chart(set_values=values).pods())
        # Study control sweeps every hour, and the head after a removal that is not to wait.
        for name in (f"{PREFIX}-study-control", "ray-head"):
            assert sweep_settings(environment(pods[name]["spec"]["containers"][0])) == expected, name


@pytest.mark.parametrize("server", ["minio", "seaweedfs"])
def test_either_server_is_reached_at_the_same_address_with_the_same_secret(server: str) -> None:
    other = {"minio": "seaweedfs", "seaweedfs": "minio"}[server]
    chart = render_chart(
        set_values=[
            f"objectStorage.{other}.enabled=false",
            f"objectStorage.{server}.enabled=true",
            f"objectStorage.{server}.image.digest=sha256:{'0' * 64}",
            f"objectStorage.{server}.persistence.size=10Gi",
        ]
    )
    [stateful_set] = chart.of_kind("StatefulSet")
    assert stateful_set["metadata"]["name"] == f"{PREFIX}-{server}"
    [container] = stateful_set["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"ghcr.io/synthmix/{server}@sha256:{'0' * 64}"
    assert container["ports"] == [{"name": "s3", "containerPort": 9000}]
    service = chart.get("Service", f"{PREFIX}-minio")
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"] == [{"name": "s3", "port": 9000, "targetPort": "s3"}]
    assert stateful_set["spec"]["serviceName"] == f"{PREFIX}-minio"
    policy = chart.get("NetworkPolicy", f"{PREFIX}-minio")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": "s3"}]
    secret = {"secretKeyRef": {"name": f"{PREFIX}-object-storage-user", "key": "access-key"}}
    if server == "seaweedfs":
        [files] = stateful_set["spec"]["template"]["spec"]["initContainers"]
        assert environment(files)["SYNTHMIX_OBJECT_STORE_ACCESS_KEY"] == secret
        assert files["args"] == ["synthmix.local.weed_files", "/etc/seaweedfs"]
        assert "-s3.config=/etc/seaweedfs/users.json" in container["args"]
        assert [item["name"] for item in container["env"]] == ["HOME"]
    for pod in ("ray-head", f"{PREFIX}-study-control"):
        seen = environment(dict(chart.pods())[pod]["spec"]["containers"][0])
        assert seen["SYNTHMIX_OBJECT_STORE_ENDPOINT"] == f"http://{PREFIX}-minio:9000"
        assert seen["SYNTHMIX_OBJECT_STORE_ACCESS_KEY"] == secret


def test_the_image_of_object_storage_is_of_the_chart_s_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    [stateful_set] = render_chart().of_kind("StatefulSet")
    assert stateful_set["spec"]["template"]["spec"]["containers"][0]["image"] == f"ghcr.io/synthmix/minio:{version}"


def test_seaweedfs_may_make_volumes_for_all_of_its_disk() -> None:
    for size, most in (("10Gi", 120), ("200Gi", 2400), ("256Mi", 8)):
        chart = render_chart(
            [CHART / "ci" / "seaweedfs-values.yaml"], [f"objectStorage.seaweedfs.persistence.size={size}"]
        )
        [stateful_set] = chart.of_kind("StatefulSet")
        [container] = stateful_set["spec"]["template"]["spec"]["containers"]
        assert f"-volume.max={most}" in container["args"]
        assert "-master.volumeSizeLimitMB=256" in container["args"]


@pytest.mark.parametrize("hub", [True, False])
def test_the_hub_is_reached_by_who_reads_base_models(hub: bool) -> None:
    api = "networkPolicy.kubernetesApi.cidrs[0]=10.0.0.1/32"
    chart = render_chart(set_values=[f"networkPolicy.baseModelHub.enabled={str(hub).lower()}", api])
    reach = outside_of(chart, "0.0.0.0/0")
    workers = {f"{group}-worker" for group in WORKER_GROUPS if group != "study-control"}
    assert reach.keys() == ({"adapter-training", "image-synthesis", "ray-head"} | workers if hub else set())
    # The API server's address may be one of these, and its port the hub's.
    assert all({"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} <= set(block["except"]) for block in reach.values())


def test_a_proxy_to_the_hub_may_have_a_private_address() -> None:
    chart = render_chart(set_values=["networkPolicy.baseModelHub.cidrs[0]=10.1.2.3/32"])
    assert outside_of(chart, "10.1.2.3/32")["image-synthesis-worker"] == {"cidr": "10.1.2.3/32"}


def outside_of(chart: Rendered, cidr: str) -> dict[str, dict[str, Any]]:
    """By policy, the range of addresses outside that it lets through, if it is this one."""
    return {
        policy["metadata"]["name"].removeprefix(f"{PREFIX}-"): peer["ipBlock"]
        for policy in chart.of_kind("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if peer.get("ipBlock", {}).get("cidr") == cidr
    }


def test_workers_reach_object_storage_and_ray_alone_in_the_release(rendered: Rendered) -> None:
    for group in WORKER_GROUPS:
        rules = rendered.get("NetworkPolicy", f"{PREFIX}-{group}-worker")["spec"]["egress"]
        ports = [
            [port["port"] for port in rule.get("ports", [])]
            for rule in rules
            if any("podSelector" in peer for peer in rule["to"])
        ]
        assert ports == [[], [9000]], group


def test_an_autoscaler_alone_decides_replicas() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in chart.of_kind("HorizontalPodAutoscaler")}
    assert scaled == {f"{PREFIX}-adapter-training"}
    for service in SERVICES:
        deployment = chart.get("Deployment", f"{PREFIX}-{service}")
        assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] not in scaled)


def test_a_node_can_be_drained_whatever_the_replicas(rendered: Rendered) -> None:
    for budget in rendered.of_kind("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1 and "minAvailable" not in budget["spec"]


def test_a_cluster_without_kuberay_is_told_what_to_do() -> None:
    with pytest.raises(RenderError) as caught:
        render_chart(api_versions=[])
    assert "helm install kuberay-operator" in str(caught.value)
    assert "--set ray.operator=false" in str(caught.value)


def test_alerts_and_dashboards_are_the_files_unchanged() -> None:
    chart = render_chart([CHART / "ci" / "full-values.yaml"])
    [rules] = chart.of_kind("PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    boards = {name: text for item in chart.of_kind("ConfigMap") for name, text in item["data"].items()}
    files = {path.name: path.read_text().strip() for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert boards == files


def test_every_value_is_in_the_schema_and_nothing_else() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in node:
            return node
        found = schema
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return found

    def compare(value: Any, node: dict[str, Any], path: str) -> None:
        node = resolve(node)
        if isinstance(value, dict) and "properties" in node:
            assert node["additionalProperties"] is False, path
            extra = {"global"} if not path else set()
            partly = {"resources"} & {path.rsplit(".", 1)[-1]}
            assert set(value) == set(node["properties"]) - extra or partly, path
            for key, item in value.items():
                compare(item, node["properties"][key], f"{path}.{key}".strip("."))

    compare(values, schema, "")


def test_the_namespace_is_the_releases() -> None:
    assert {item["metadata"].get("namespace", NAMESPACE) for item in render_chart().objects} == {NAMESPACE}
