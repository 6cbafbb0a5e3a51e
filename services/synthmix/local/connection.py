"""stack.json: how to reach the stack that runs at a home. Light, since every command line reads it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synthmix.local.home import Home, is_locked, write_private
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import Unavailable


@dataclass(frozen=True)
class Connection:
    """The addresses of a running stack, each host:port on loopback, and its secrets.

    Attributes:
        home: The stack's home.
        services: The gRPC address of each service.
        metrics: Where /metrics is served: by each service, and by "ray-node" for all Ray workers.
        token: The bearer token of the services.
        object_store: Object storage, with its keys.
        ray_address: The head of the local Ray cluster.
        ray_auth_token: What Ray asks of its drivers.
        pid: The process that runs the stack.
        pids: Its children, by name.
    """

    home: Path
    services: Mapping[str, str]
    metrics: Mapping[str, str]
    token: str = field(repr=False)
    object_store: ObjectStoreSettings = field(repr=False)
    ray_address: str
    ray_auth_token: str = field(repr=False)
    pid: int
    pids: Mapping[str, int]


def read_connection(home: Path) -> Connection:
    """How to reach the stack that runs at a home.

    Raises:
        Unavailable: None runs there, or one that is not ready or is stopping.
    """
    paths = Home(home)
    place = {"home": str(paths.folder)}
    if not is_locked(paths):  # stack.json may be there: its process was killed, or the machine went down
        message = f"no stack runs at {paths.folder}; start one with `synthmix up`, or give --address"
        raise Unavailable(message, reason="NO_STACK", metadata=place)
    try:
        text = paths.connection.read_text()
    except FileNotFoundError:
        message = f"the stack at {paths.folder} is starting or stopping; try again in a few seconds"
        raise Unavailable(message, reason="STACK_NOT_READY", metadata=place) from None
    value = json.loads(text)
    value["object_store"] = ObjectStoreSettings(**value["object_store"])
    return Connection(home=paths.folder, **value)


def write_connection(connection: Connection) -> None:
    """Publishes how to reach a stack, for this user only."""
    value = asdict(connection)
    write_private(Home(value.pop("home")).connection, value)
