"""Bringing local streams into being, and holding existing ones against what is configured (contract, section 2).

An existing stream is never altered silently: a wider limit is applied, everything else is reported as a difference
and applied only when an operator says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.model.names import LOCAL_CONSUMER, StreamName, ZoneId, physical
from bsfg.substrates.control import Control
from bsfg.substrates.epochs import EpochBegan, ensure_epoch
from bsfg.substrates.stream_configs import (
    OWNER_KEY,
    Config,
    StreamSpec,
    application_consumer,
    is_adopted,
    local_config,
)

NOT_VERIFIED: Final = frozenset({"name", "metadata", "max_consumers", "duplicate_window"})
"""Nothing that BSFG promises rests on these fields of an existing stream."""
NOT_CHANGEABLE: Final = frozenset({"storage", "retention"})
"""JetStream, or the safety of what is stored, does not let these be changed in place."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of an existing stream that is not as configured."""

    field: str
    found: object
    expected: object


@dataclass(frozen=True, slots=True)
class ProvisionReport:
    """What was found, made and left alone for one local stream."""

    stream: StreamName
    jetstream: str
    created: bool = False
    adopted: bool = False
    """Somebody else created the stream: only its epoch metadata is written."""
    epoch: str | None = None
    applied: tuple[Difference, ...] = ()
    """What was changed to what is configured: on provisioning only limits that were raised."""
    differences: tuple[Difference, ...] = ()
    """What differs and was left as it is."""
    problem: str | None = None
    """Why this stream could not be provisioned; the others are not affected."""


async def provision_local(
    control: Control,
    zone: ZoneId,
    streams: Sequence[StreamSpec],
    *,
    replicas: int,
    epoch_began: EpochBegan,
) -> list[ProvisionReport]:
    """Create the local streams that don't exist, verify those that do; one report for each, in order.

    On return every stream without ``problem`` exists durably with its epoch and its ``local-consumer``. Raises
    ``SubstrateUnavailable`` when the store can't be reached; calling again is safe.
    """
    return [await _provision_one(control, zone, spec, replicas, epoch_began) for spec in streams]


async def apply_stream(
    control: Control, zone: ZoneId, spec: StreamSpec, *, replicas: int, reason: str, epoch_began: EpochBegan
) -> ProvisionReport:
    """Make an existing stream of ours what is configured, even where that deletes facts; for an operator, with reason.

    ``applied`` of the report holds everything that was changed. Raises ``INVALID_REQUEST`` without a reason and
    ``CHECK_FAILED`` for an adopted stream, or for a difference that can't be changed in place.
    """
    if not reason.strip():
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"stream apply {spec.name}: it needs a reason",
            hint="say why, with --reason",
        )
    found = await control.api(f"STREAM.INFO.{physical(spec.name)}")
    wanted = local_config(spec, zone, replicas, atomic=control.has_batches)
    changes = differences(found["config"], wanted)
    _refuse_apply(spec.name, found["config"], changes)
    if changes:
        await _update(control, found["config"], wanted, changes)
    report = await _provision_one(control, zone, spec, replicas, epoch_began)
    left = {difference.field for difference in report.differences}
    return replace(report, applied=tuple(change for change in changes if change.field not in left))


async def owned_stream(control: Control, stream: StreamName) -> dict[str, Any]:
    """A local stream that BSFG created, as the server describes it; ``CHECK_FAILED`` if somebody else made it."""
    found = await control.api(f"STREAM.INFO.{physical(stream)}")
    if (found["config"].get("metadata") or {}).get(OWNER_KEY) != stream:
        raise BsfgError(
            Code.CHECK_FAILED,
            f"the stream {physical(stream)} was not created by BSFG as {stream}",
            hint="remove it with the tool that created it",
        )
    return found


async def drop_local(control: Control, stream: StreamName) -> None:
    """The stream is gone with all that it held."""
    await control.api(f"STREAM.DELETE.{physical(stream)}")


def differences(found: Mapping[str, Any], wanted: Config) -> list[Difference]:
    """The fields of an existing stream that are not as wanted, those that BSFG does not care for left out."""
    changes = [
        Difference(field, found.get(field), expected)
        for field, expected in wanted.items()
        if field not in NOT_VERIFIED and not _equal(found.get(field), expected)
    ]
    # Such a stream is not synced whatever the server's sync_interval says; servers before 2.12 don't know the field.
    if found.get("persist_mode") == "async":
        changes.append(Difference("persist_mode", "async", "default"))
    return changes


def is_widening(difference: Difference) -> bool:
    """Whether the change only lets the stream keep more: a longer age, more bytes, or no limit at all."""
    if difference.field == "max_age":
        return _is_wider(difference.found, difference.expected, unlimited=0)
    if difference.field == "max_bytes":
        return _is_wider(difference.found, difference.expected, unlimited=-1)
    return False


async def ensure_consumer(control: Control, jetstream_stream: str, consumer: str) -> None:
    """The durable consumer for local applications exists; one that existed is left as it is."""
    try:
        await control.api(f"CONSUMER.INFO.{jetstream_stream}.{consumer}")
    except BsfgError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        body = {"stream_name": jetstream_stream, "config": application_consumer(consumer)}
        await control.api(f"CONSUMER.DURABLE.CREATE.{jetstream_stream}.{consumer}", body)


async def _provision_one(
    control: Control, zone: ZoneId, spec: StreamSpec, replicas: int, epoch_began: EpochBegan
) -> ProvisionReport:
    report = ProvisionReport(spec.name, physical(spec.name))
    try:
        return await _provision(control, zone, spec, replicas, epoch_began, report)
    except BsfgError as error:
        if error.code is Code.UNAVAILABLE:
            raise
        return replace(report, problem=error.message)


async def _provision(
    control: Control,
    zone: ZoneId,
    spec: StreamSpec,
    replicas: int,
    epoch_began: EpochBegan,
    report: ProvisionReport,
) -> ProvisionReport:
    wanted = local_config(spec, zone, replicas, atomic=control.has_batches)
    found, created = await _find_or_create(control, wanted)
    adopted = is_adopted(found["config"])
    changes = differences(found["config"], wanted)
    widened = [] if adopted else [change for change in changes if is_widening(change)]
    if widened:
        await _update(control, found["config"], wanted, widened)
        found = await control.api(f"STREAM.INFO.{wanted['name']}")
        changes = differences(found["config"], wanted)
    epoch, found = await ensure_epoch(control, spec.name, found, epoch_began)
    # A consumer on a stream with another retention would decide over what that stream keeps.
    if found["config"]["retention"] == "limits":
        await ensure_consumer(control, wanted["name"], LOCAL_CONSUMER)
    return replace(
        report,
        created=created,
        adopted=adopted,
        epoch=epoch,
        applied=tuple(widened),
        differences=tuple(changes),
    )


async def _find_or_create(control: Control, wanted: Config) -> tuple[dict[str, Any], bool]:
    name = wanted["name"]
    try:
        return await control.api(f"STREAM.INFO.{name}"), False
    except BsfgError as error:
        if error.code is not Code.NOT_FOUND:
            raise
    answer = await control.api(f"STREAM.CREATE.{name}", wanted)
    return await control.api(f"STREAM.INFO.{name}"), bool(answer.get("did_create", True))


async def _update(
    control: Control, found: Mapping[str, Any], wanted: Config, changes: Sequence[Difference]
) -> None:
    config = dict(found)
    for change in changes:
        config[change.field] = change.expected
    if config["max_age"] and config["duplicate_window"] > config["max_age"]:
        config["duplicate_window"] = wanted["duplicate_window"]
    await control.api(f"STREAM.UPDATE.{config['name']}", config)


def _refuse_apply(stream: StreamName, found: Mapping[str, Any], changes: Sequence[Difference]) -> None:
    if is_adopted(found):
        raise BsfgError(
            Code.CHECK_FAILED,
            f"stream apply {stream}: the stream {found['name']} was not created by BSFG (no metadata {OWNER_KEY})",
            hint="change it with the tool that created it; BSFG writes only its epoch",
        )
    fixed = [change.field for change in changes if change.field in NOT_CHANGEABLE]
    if fixed:
        raise BsfgError(
            Code.CHECK_FAILED,
            f"stream apply {stream}: {', '.join(fixed)} of an existing stream can't be changed",
            hint="export the facts to a new stream",
        )


def _equal(found: object, expected: object) -> bool:
    """Whether two values mean the same to JetStream, which leaves out false and empty fields."""
    if isinstance(expected, list) and isinstance(found, list):
        return sorted(found) == sorted(expected)
    return found == expected or (not found and not expected)


def _is_wider(found: object, expected: object, *, unlimited: int) -> bool:
    if not isinstance(found, int) or not isinstance(expected, int) or found == unlimited:
        return False
    return expected == unlimited or expected > found
