"""The embedded server's configuration file: two accounts, three users, one store (contract, sections 3 and 6).

The gateway and the administrator live in the account that owns JetStream. Local applications live in an account of
their own, which imports what they may ask for and nothing else. One account with an allow-list would not be enough:
a client chooses where an answer goes, so a publish with reply ``in.…``, ``$KV.…`` or ``$JS.API.STREAM.PURGE.…`` makes
the server itself publish there, past every permission. Across accounts the server replaces the reply by its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsfg.model.names import StreamName, ZoneId, subjects

HOST: Final = "127.0.0.1"
PORT_DEFAULT: Final = 4222
PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
LOG_FILES_MAX: Final = 3
# The streams' own limits and the free disk bound the store. The server's default, a share of what is free at its
# start, would refuse to make a new generation of an inbound stream just when the disk is well used.
STORE_BYTES_MAX: Final = 2**50

GATEWAY_ACCOUNT: Final = "BSFG"
LOCAL_ACCOUNT: Final = "LOCAL"
USER_SUBJECT: Final = "$SYS.REQ.USER.INFO"
INBOX: Final = "_INBOX.>"
INBOUND: Final = "in.>"

# What local applications ask JetStream for: to read and to consume, never to change a stream.
READING: Final = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.INFO.*.*",
    "$JS.API.CONSUMER.NAMES.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.*.*",
    "$JS.ACK.>",
    "$JS.FC.>",
)
# One request, many answers. The server forgets where they go two minutes after the last one: a pull that waits longer
# without heartbeats hears nothing more, and what it would have got is delivered again after the consumer's ack wait.
READING_STREAMED: Final = ("$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.DIRECT.GET.>")


@dataclass(frozen=True, slots=True)
class ServerUsers:
    """The public NKeys of the three users."""

    gateway: str
    local: str
    admin: str


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """All that the configuration file depends on."""

    zone: ZoneId
    port: int
    store: Path
    log: Path
    durability_strict: bool
    streams: tuple[StreamName, ...]
    users: ServerUsers
    batch_messages_max: int | None = None
    """None where the server does not know the limit, and has one of its own."""


def publishable(streams: Sequence[StreamName]) -> list[str]:
    """What a local application may publish to, JetStream's requests included."""
    own = [subject for stream in streams for subject in subjects(stream)]
    return [*own, *READING, *READING_STREAMED, USER_SUBJECT]


def digest(text: str) -> str:
    """What tells one configuration file from another: sha-256, lower-case hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def render(settings: ServerSettings) -> str:
    """The text of the configuration file; equal settings give equal text."""
    sync = "\n  sync_interval: always" if settings.durability_strict else ""
    limits = ""
    if settings.batch_messages_max is not None:
        limits = f"\n  limits {{\n    batch {{ max_msgs: {settings.batch_messages_max} }}\n  }}"
    return f"""\
server_name: {_quoted(f"bsfg-{settings.zone}")}
listen: {_quoted(f"{HOST}:{settings.port}")}
max_payload: {PAYLOAD_BYTES_MAX}
log_file: {_quoted(str(settings.log))}
logfile_size_limit: {LOG_BYTES_MAX}
logfile_max_num: {LOG_FILES_MAX}
jetstream {{
  store_dir: {_quoted(str(settings.store))}
  max_file_store: {STORE_BYTES_MAX}{sync}{limits}
}}
accounts {{
{_gateway_account(settings)}
{_local_account(settings)}
}}
"""


def _gateway_account(settings: ServerSettings) -> str:
    own = [subject for stream in settings.streams for subject in subjects(stream)]
    exports = [f"{{service: {_quoted(subject)}}}" for subject in (*own, *READING)]
    exports += [f'{{service: {_quoted(subject)}, response_type: "Stream"}}' for subject in READING_STREAMED]
    exports += [f"{{stream: {_quoted(subject)}}}" for subject in _heard(own)]
    users = [f"{{nkey: {key}}}" for key in (settings.users.gateway, settings.users.admin)]
    return f"""\
  {GATEWAY_ACCOUNT} {{
    jetstream: enabled
    users: {_listed(users)}
    exports: {_listed(exports)}
  }}"""


def _local_account(settings: ServerSettings) -> str:
    own = [subject for stream in settings.streams for subject in subjects(stream)]
    imports = [_imported("service", subject) for subject in (*own, *READING, *READING_STREAMED)]
    imports += [_imported("stream", subject) for subject in _heard(own)]
    permissions = {
        "publish": {"allow": publishable(settings.streams)},
        "subscribe": {"allow": _heard(own)},
    }
    user = f"{{nkey: {settings.users.local}, permissions: {json.dumps(permissions, ensure_ascii=False)}}}"
    return f"""\
  {LOCAL_ACCOUNT} {{
    users: {_listed([user])}
    imports: {_listed(imports)}
  }}"""


def _heard(own: list[str]) -> list[str]:
    """What local applications hear: their answers and push consumers, their streams, and what arrives from peers."""
    return [INBOX, INBOUND, *own]


def _imported(kind: str, subject: str) -> str:
    return f"{{{kind}: {{account: {GATEWAY_ACCOUNT}, subject: {_quoted(subject)}}}}}"


def _listed(entries: list[str]) -> str:
    return "[\n" + "".join(f"      {entry}\n" for entry in entries) + "    ]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
