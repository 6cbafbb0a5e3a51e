"""What the children of a local stack inherit of the environment that it is started in."""

from pathlib import Path

from synthmix.local import stack
from synthmix.local.home import prepare
from synthmix.local.sweep import sweep
from synthmix.service_kit.environment import object_store_settings, server_tls, tls_authorities


def test_tls_of_another_stack_is_not_this_ones(tmp_path: Path) -> None:
    names = ("SYNTHMIX_TLS_CA", "SYNTHMIX_TLS_CERTIFICATE", "SYNTHMIX_TLS_KEY", "SYNTHMIX_OBJECT_STORE_CA")
    plan = stack._plan(prepare(tmp_path / "home"), cpus=1, gpus=0)
    try:
        environment = stack._environment(plan, dict.fromkeys(names, "/of/another.pem"))
    finally:
        sweep(plan.home)
    assert server_tls(environment) is None
    assert tls_authorities(environment) is None
    assert object_store_settings(environment) == plan.storage.settings
