"""What the process says to the script that started it; `synthmix --help` documents it for users."""

OK = 0
FAILED = 1
INVALID = 2
NOT_FOUND = 3
UNREACHABLE = 4
CANCELLED = 5
INTERRUPTED = 130
BROKEN_PIPE = 141
