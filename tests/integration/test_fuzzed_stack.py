"""Whatever is sent to any method of the real services, the answer is a code for the caller's fault, not for ours."""

from pathlib import Path

from fuzzing import KINDS, fuzz, methods_of, sizes_of, traces_in
from synthmix.local import Connection

SEED = 16
CALLS = 600


def test_no_call_of_any_method_is_a_defect(stack: Connection) -> None:
    logs = sizes_of(Path(stack.home) / "logs")
    codes, faults = fuzz(stack.services, stack.token, seed=SEED, calls=CALLS)
    faults += traces_in(Path(stack.home) / "logs", logs)
    assert not faults, "\n".join(faults[:10])
    assert codes["INVALID_ARGUMENT"] > CALLS / 4 and codes["UNAUTHENTICATED"] and codes["OK"]
    assert len(methods_of(list(stack.services.values()))) * len(KINDS) / 2 < CALLS
