"""The ports of a zone's store over JetStream; each class says on which parts of NATS it stands."""

from bsfg.substrates.exported_log import JetStreamExportedLog
from bsfg.substrates.inbound_log import JetStreamInboundLog
from bsfg.substrates.kept_state import JetStreamConfirmations, JetStreamPartitions

__all__ = [
    "JetStreamConfirmations",
    "JetStreamExportedLog",
    "JetStreamInboundLog",
    "JetStreamPartitions",
]
