"""A neighbour: PostgreSQL's logical replication of single-row transactions over mutual TLS.

The subscriber applies with ``synchronous_commit = off``, its default: it tells the publisher a position only once
that is flushed, so a crash loses and doubles nothing. Facts count as arrived when they are visible, a little earlier.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench import certificates
from bench.facts import Facts, payload
from bench.pair import Pair, Setting, Watch, sample
from bench.processes import Processes, family, free_port

INSTALLED: Final = Path("/usr/lib/postgresql")
ACCOUNT: Final = "postgres"
"""Comes with Debian's package, and runs the servers where root runs the bench: they refuse to run as root."""
ROLE: Final = "bench"
PUBLISHER: Final = "publisher"
SUBSCRIBER: Final = "subscriber"
ANSWER_SECONDS_MAX: Final = 120.0
ARRIVED: Final = "SELECT coalesce(max(id) + 1, 0) FROM facts"

_SETTINGS: Final = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
wal_level = logical
max_wal_size = 4GB
shared_buffers = 256MB
ssl = on
ssl_cert_file = '{folder}/{name}.crt'
ssl_key_file = '{folder}/{name}.key'
ssl_ca_file = '{folder}/ca.crt'
"""
_ACCESS: Final = f"local all {ROLE} trust\nhostssl all {ROLE} 127.0.0.1/32 cert map={ROLE}\n"
_IDENTITIES: Final = f"{ROLE} {SUBSCRIBER} {ROLE}\n"
_TABLE: Final = "CREATE TABLE facts (id bigint PRIMARY KEY, subject text NOT NULL, payload bytea NOT NULL)"
_PUBLISHER: Final = f"""\
{_TABLE};
CREATE PUBLICATION facts FOR TABLE facts;
CREATE UNLOGGED TABLE staged (id bigint PRIMARY KEY, payload bytea NOT NULL);
CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
DECLARE fact record;
BEGIN
  FOR fact IN SELECT id, payload FROM staged ORDER BY id LOOP
    INSERT INTO facts VALUES (fact.id, 'facts.operational.bench', fact.payload);
    COMMIT;
  END LOOP;
END $$"""
_SUBSCRIBER: Final = """\
{table};
CREATE SUBSCRIPTION facts CONNECTION 'host=127.0.0.1 port={port} user={role} dbname=postgres sslmode=verify-full
  sslrootcert={folder}/ca.crt sslcert={folder}/subscriber.crt sslkey={folder}/subscriber.key'
  PUBLICATION facts WITH (copy_data = false, enabled = false)"""


def programs() -> Path | None:
    """The folder of the newest server that is installed; None if there is none."""
    found = sorted(INSTALLED.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found and shutil.which("psql") else None


def version(folder: Path) -> str:
    command = [str(folder / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@contextmanager
def running(folder: Path, setting: Setting) -> Iterator[PostgresPair]:
    """Publisher and subscriber, the subscription disabled; both end with the block."""
    if (binaries := programs()) is None:
        raise RuntimeError("PostgreSQL's server is not installed; make bench-neighbours installs it")
    account = ACCOUNT if os.geteuid() == 0 else None
    place = folder / "postgres"
    place.mkdir()
    certificates.issue(place, [PUBLISHER, SUBSCRIBER])
    if account is not None:
        folder.chmod(0o711)
        for path in (place, *place.iterdir()):
            shutil.chown(path, account, account)
    with Processes(folder, signal.SIGINT) as processes:
        pair = PostgresPair(place, binaries, account, processes)
        for name in (PUBLISHER, SUBSCRIBER):
            pair.start(name)
        pair.connect()
        yield pair


class PostgresPair(Pair):
    """A publisher that has the facts as rows and a subscriber that applies them."""

    def __init__(self, folder: Path, binaries: Path, account: str | None, processes: Processes) -> None:
        self._folder, self._binaries, self._account, self._processes = folder, binaries, account, processes
        self._ports = {PUBLISHER: free_port(), SUBSCRIBER: free_port()}

    def start(self, name: str) -> None:
        """Make one cluster and start its server; it answers on return."""
        cluster = self._folder / name
        command = [str(self._binaries / "initdb"), "-D", str(cluster), "-U", ROLE, "-E", "UTF8", "--locale=C"]
        subprocess.run(
            [*command, "--auth=trust", "--no-sync"],
            stdout=subprocess.DEVNULL,
            check=True,
            cwd=self._folder,
            user=self._account,
            timeout=ANSWER_SECONDS_MAX,
        )
        settings = _SETTINGS.format(port=self._ports[name], folder=self._folder, name=name)
        with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(settings)
        (cluster / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")
        (cluster / "pg_ident.conf").write_text(_IDENTITIES, encoding="utf-8")
        self._processes.start(name, [str(self._binaries / "postgres"), "-D", str(cluster)], self._account)
        self._processes.wait_until(f"{name} answering", partial(self._answers, name))

    def _answers(self, name: str) -> bool:
        asked = subprocess.run(self._psql(name, "SELECT 1"), capture_output=True, check=False, timeout=10)
        return asked.returncode == 0

    def connect(self) -> None:
        """Tables, publication, and a subscription that waits."""
        self._execute(PUBLISHER, _PUBLISHER)
        subscriber = _SUBSCRIBER.format(
            table=_TABLE, port=self._ports[PUBLISHER], role=ROLE, folder=self._folder
        )
        self._execute(SUBSCRIBER, subscriber)

    def fill(self, facts: Facts) -> float:
        """One transaction for each fact; nothing is measured here, so they need not be on disk one by one."""
        rows = (
            f"{number}\t\\\\x{payload(number, facts.size_bytes).hex()}\n" for number in range(facts.count)
        )
        self._execute(PUBLISHER, "COPY staged FROM STDIN", "".join(rows))
        self._execute(PUBLISHER, "SET synchronous_commit = off; CALL fill()")
        self._execute(PUBLISHER, "CHECKPOINT")
        self._execute(SUBSCRIBER, "CHECKPOINT")
        return 0.0

    async def release(self) -> None:
        """Enable the subscription."""
        await asyncio.to_thread(self._execute, SUBSCRIBER, "ALTER SUBSCRIPTION facts ENABLE")

    @asynccontextmanager
    async def watch(self, facts: Facts) -> AsyncIterator[Watch]:
        session = await asyncio.create_subprocess_exec(
            *self._psql(SUBSCRIBER), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield _PostgresWatch(session, facts)
        finally:
            assert session.stdin is not None
            session.stdin.close()
            await session.wait()

    def pids(self) -> Mapping[str, frozenset[int]]:
        return {name: family(process.pid) for name, process in self._processes.started.items()}

    def _psql(self, name: str, *statements: str) -> list[str]:
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", ROLE, "-d", "postgres"]
        command += ["-h", str(self._folder), "-p", str(self._ports[name])]
        for statement in statements:
            command += ["-c", statement]
        return command

    def _execute(self, name: str, script: str, rows: str = "") -> None:
        """A script of plain statements, each in its own transaction; or one statement with its rows."""
        arguments = self._psql(name, script) if rows else self._psql(name)
        done = subprocess.run(
            arguments,
            input=rows or script,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise RuntimeError(f"PostgreSQL's {name} refused {script[:60]!r}: {done.stderr.strip()[-300:]}")


@dataclass(frozen=True)
class _PostgresWatch(Watch):
    session: asyncio.subprocess.Process
    facts: Facts

    async def _ask(self, statement: str) -> str:
        assert self.session.stdin is not None and self.session.stdout is not None
        self.session.stdin.write(f"{statement};\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return (await self.session.stdout.readline()).decode().strip()

    async def arrived(self) -> int:
        return int(await self._ask(ARRIVED))

    async def require_equal(self) -> None:
        count = int(await self._ask("SELECT count(*) FROM facts"))
        if count != self.facts.count:
            raise RuntimeError(f"the subscriber holds {count} facts, {self.facts.count} were published")
        for number in sample(count):
            content = await self._ask(f"SELECT encode(payload, 'hex') FROM facts WHERE id = {number}")
            if content != payload(number, self.facts.size_bytes).hex():
                raise RuntimeError(f"the subscriber's fact {number} differs from what was published")
