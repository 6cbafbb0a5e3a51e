"""What a pod of SeaweedFS reads: its user, and what closes the ports that it opens beside S3's."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from synthmix.local import weed_files


def test_the_files_of_a_pod_say_who_may_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENDPOINT": "http://s3:9000",
        "ACCESS_KEY": "ada",
        "SECRET_KEY": "x" * 40,
        "BUCKET": "b",
    }.items():
        monkeypatch.setenv(f"SYNTHMIX_OBJECT_STORE_{name}", value)
    monkeypatch.setattr(sys, "argv", ["weed_files", str(tmp_path)])
    weed_files.main()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "certificate.pem": 0o600,
        "security.toml": 0o600,
        "users.json": 0o600,
    }
    [user] = json.loads((tmp_path / "users.json").read_text())["identities"]
    assert user["credentials"] == [{"accessKey": "ada", "secretKey": "x" * 40}]
    assert {action.partition(":")[2] for action in user["actions"]} == {"b"}
    security = tomllib.loads((tmp_path / "security.toml").read_text())
    assert security["grpc"]["ca"] == security["grpc"]["filer"]["key"] == str(tmp_path / "certificate.pem")
    # Who has the user's keys signs no request to the other ports.
    assert len(security["jwt"]["signing"]["key"]) == 32 and security["jwt"]["signing"]["key"] != "x" * 40
    monkeypatch.delenv("SYNTHMIX_OBJECT_STORE_ACCESS_KEY")
    with pytest.raises(SystemExit, match="SYNTHMIX_OBJECT_STORE_ACCESS_KEY is not set"):
        weed_files.main()
