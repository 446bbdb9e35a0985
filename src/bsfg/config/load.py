"""All files of a zone's home to one configuration, or every problem in them at once."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from bsfg.config.build import build_links, build_peers, build_zone
from bsfg.config.files import read_source
from bsfg.config.home import Home
from bsfg.config.rules import check_cursors, check_peers, check_zone
from bsfg.config.schema import CursorsFile, PeersFile, ZoneFile
from bsfg.config.validate import validate
from bsfg.config.values import Configuration
from bsfg.errors import ConfigurationError

ZONE_FILE = "config/zone.yaml"
PEERS_FILE = "config/peers.yaml"
CURSORS_FILE = "config/cursors.yaml"


def load(home: Path) -> Configuration:
    """Read zone.yaml, peers.yaml and cursors.yaml of a home; the last two may be missing, which allows nothing.

    Nothing is written, and no file that a value names is opened. Raises :class:`ConfigurationError` with every
    problem of all three files, each with its line and column (contract, section 3). Reading 1 MiB of YAML takes
    seconds: a running gateway calls this in a thread.
    """
    paths = Home(home.absolute())
    zone_source, zone_hash = read_source(paths.zone_file, ZONE_FILE, required=True)
    peers_source, peers_hash = read_source(paths.peers_file, PEERS_FILE, required=False)
    cursors_source, cursors_hash = read_source(paths.cursors_file, CURSORS_FILE, required=False)
    sources = (zone_source, peers_source, cursors_source)

    zone_file = validate(ZoneFile, zone_source)
    peers_file = validate(PeersFile, peers_source)
    cursors_file = validate(CursorsFile, cursors_source)
    if zone_source.readable:
        check_zone(zone_file, zone_source)
    if peers_source.readable:
        check_peers(peers_file, peers_source, zone_file, zone_source)
    if cursors_source.readable:
        check_cursors(cursors_file, cursors_source, peers_file, peers_source)

    problems = [problem for source in sources for problem in source.problems]
    if problems:
        raise ConfigurationError(problems)
    zone = build_zone(zone_file, paths)
    hashes = {ZONE_FILE: zone_hash, PEERS_FILE: peers_hash, CURSORS_FILE: cursors_hash}
    return Configuration(
        home=paths.path,
        zone=zone,
        peers=build_peers(peers_file, zone, paths),
        links=build_links(cursors_file),
        file_hashes=MappingProxyType({name: digest for name, digest in hashes.items() if digest is not None}),
    )
