"""Two studies of one name at once, on the real stack."""

import pytest

from studies import FEW, reduced_study
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import failure_of, metadata_of
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import Cancelled, InvalidArgument


def test_two_studies_of_one_name(client: Client, finished: studies_pb2.Study) -> None:
    old = client.submit_study(reduced_study("twice", FEW, seeds=20))
    new = client.submit_study(reduced_study("twice", FEW, seeds=21))
    names = [metadata_of(operation).target for operation in (new, old)]
    assert not any("another study" in warning for warning in metadata_of(old).warnings)
    [warning] = [warning for warning in metadata_of(new).warnings if "another study" in warning]
    assert f"another study named 'twice' is not finished: {names[1]}" in warning
    assert "which differs in seeds (20 there, 21 here);" in warning
    planned = client.plan_study(reduced_study("twice", FEW, seeds=22))
    assert [name for name in names if any(name in item for item in planned.warnings)] == names

    assert [study.name for study in client.list_studies("twice", unfinished=True)] == names
    assert [study.name for study in client.list_studies()][:2] == names
    assert [operation.name for operation in client.list_operations(STUDY_CONTROL)][:2] == [new.name, old.name]
    times = [study.create_time.ToNanoseconds() for study in client.list_studies()]
    assert times == sorted(times, reverse=True)

    with pytest.raises(InvalidArgument) as caught:
        client.cancel_study("twice")
    assert caught.value.reason == "STUDY_NAME_AMBIGUOUS"
    assert all(name in str(caught.value) for name in names)
    assert client.cancel_study(names[0]) == new.name
    assert client.cancel_study("twice") == old.name  # the only one of that name that goes on, though not the newest
    assert client.cancel_studies("twice") == []
    for operation in (old, new):
        assert isinstance(failure_of(client.wait(operation.name, timeout_s=30)), Cancelled)
