"""Messages as the JSON that artifacts hold."""

import string

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.service_kit import message_json


def test_maps_are_in_order_at_any_depth() -> None:
    """Protobuf iterates over maps in an order of the process's own, and reports of equal studies have equal bytes."""
    metrics = {letter: float(index) for index, letter in enumerate(reversed(string.ascii_letters))}
    results = evaluations_pb2.TrialResults(trials=[evaluations_pb2.TrialResult(test_metrics=metrics)])
    [trial] = message_json.to_value(results)["trials"]
    assert list(trial["test_metrics"]) == sorted(metrics)
    assert trial["test_metrics"] == metrics
    assert message_json.from_value(message_json.to_value(results), evaluations_pb2.TrialResults) == results
