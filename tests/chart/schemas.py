"""What Kubernetes and the operators' definitions say an object may look like, read from their published Go modules.

Kubernetes's own kinds: the types that client-go carries for server-side apply, which name every field of a version.
Custom kinds: the OpenAPI schemas of their CustomResourceDefinitions. Both are taken strictly: an unknown field is an
error, where an API server might only warn, or drop it.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import yaml

from built_tools import module_folder
from programs import KUBERAY

KUBERNETES_VERSIONS = ("0.30.14", "0.31.14", "0.32.13", "0.33.13", "0.34.4")
"""Of client-go: 0.34 is Kubernetes 1.34's."""
DEFINITIONS = {
    "ray.io": (
        KUBERAY,
        "config/crd/bases/ray.io_rayclusters.yaml",
    ),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_*.yaml",
    ),
    "cert-manager.io": ("github.com/cert-manager/cert-manager@v1.18.2", "deploy/crds/crd-certificates.yaml"),
    "gateway.networking.k8s.io": (
        "sigs.k8s.io/gateway-api@v1.3.0",
        "config/crd/standard/gateway.networking.k8s.io_*.yaml",
    ),
}
GROUP_PACKAGES = {
    "admissionregistration.k8s.io": "admissionregistration",
    "rbac.authorization.k8s.io": "rbac",
    "networking.k8s.io": "networking",
    "": "core",
}


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Takes a plain `=`, which enumerations of operators hold, for the string that it is in YAML 1.2."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)

Types = dict[str, dict[str, Any]]


@cache
def kubernetes_types(version: str) -> Types:
    """The types of a version of client-go, by name."""
    source = (module_folder(f"k8s.io/client-go@v{version}") / "applyconfigurations/internal/internal.go").read_text()
    text = source.partition("typed.YAMLObject(`")[2].partition("`)")[0]
    return {item["name"]: item for item in yaml.load(text, Loader=Loader)["types"]}


def problems(item: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an object, as "path: problem"."""
    group = item["apiVersion"].rpartition("/")[0]
    if group in DEFINITIONS:
        schema = custom_schemas(group)[item["kind"], item["apiVersion"].rpartition("/")[2]]
        return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(item)]
    package = GROUP_PACKAGES.get(group, group)
    name = f"io.k8s.api.{package}.{item['apiVersion'].rpartition('/')[2]}.{item['kind']}"
    types = kubernetes_types(version)
    if name not in types:
        return [f"{item['apiVersion']} {item['kind']} isn't a kind of Kubernetes {version}"]
    return list(_mismatches(item, types[name], types, "$"))


def _mismatches(value: Any, schema: dict[str, Any], types: Types, path: str) -> Iterator[str]:
    if "namedType" in schema:
        schema = types[schema["namedType"]]
    if value is None:
        return
    if "map" in schema and isinstance(value, dict):
        fields = {field["name"]: field["type"] for field in schema["map"].get("fields", [])}
        for key, item in value.items():
            inner = fields.get(key, schema["map"].get("elementType"))
            if inner is None:
                yield f"{path}.{key}: unknown field"
            else:
                yield from _mismatches(item, inner, types, f"{path}.{key}")
    elif "list" in schema and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mismatches(item, schema["list"]["elementType"], types, f"{path}[{index}]")
    elif "scalar" in schema:
        kinds = {"string": str, "numeric": (int, float), "boolean": bool, "untyped": (str, int, float, bool)}
        wanted = kinds[schema["scalar"]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and schema["scalar"] == "numeric"):
            yield f"{path}: {value!r} isn't {schema['scalar']}"
    else:
        yield f"{path}: {value!r} has the wrong shape"


@cache
def custom_schemas(group: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Strict JSON schemas by kind and version."""
    module, pattern = DEFINITIONS[group]
    found = {}
    for path in module_folder(module).glob(pattern):
        definition = yaml.load(path.read_text(), Loader=Loader)
        for version in definition["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            # Their schemas leave metadata to Kubernetes.
            schema["properties"]["metadata"] = {"type": "object"}
            found[definition["spec"]["names"]["kind"], version["name"]] = _strict(schema)
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(item) for key, item in schema.items()}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        strict["additionalProperties"] = False
    return strict
