"""A third zone beside a lab's two, so that one of them reads from two peers: the same program, a home of its own."""

from __future__ import annotations

from typing import Final

from tests.support.lab_zones import Lab, Zone

from bsfg.config.home import Home
from bsfg.lab import homes, processes, templates
from bsfg.lab.homes import LOOPBACK, PLANT_A, LabPaths, free_port, write_text
from bsfg.lab.templates import Addresses, ZoneSpec
from bsfg.substrates.nkey_files import ensure_seed
from bsfg.transport.development_ca import PUBLIC_MODE, create_authority, issue, write_whole

NORTH: Final = "north"
ENERGY: Final = "facts.energy"
_SPEC: Final = ZoneSpec(NORTH, "north-bsfg", "127.2.1.10", (ENERGY,), (), ())


def build_third_zone(lab: Lab) -> Zone:
    """Make the zone's home, and let plant-a, which must not run, read :data:`ENERGY` from it."""
    paths, taken = LabPaths(lab.directory), set[int]()
    ports = [free_port(LOOPBACK, taken)]
    taken.add(ports[0])
    addresses = Addresses(
        f"{_SPEC.host}:{free_port(_SPEC.host, taken)}", f"{LOOPBACK}:{ports[0]}", free_port(LOOPBACK, taken)
    )
    plant = lab.plant
    home = Home(paths.home(NORTH))
    for folder in (home.path, home.config, home.certs, home.data, home.run):
        folder.mkdir(mode=0o700)
    authority = paths.authority(NORTH)
    create_authority(authority.certificate.parent, f"{NORTH} development CA")
    issue(
        authority.certificate,
        authority.key,
        _SPEC.identity,
        san_dns=[_SPEC.identity],
        san_ip=[_SPEC.host],
        days=homes.CERTIFICATE_DAYS,
        out_cert=home.server_certificate,
        out_key=home.server_key,
    )
    for seed in (home.local_seed, home.admin_seed):
        ensure_seed(seed)
    own, plants = authority.certificate.read_bytes(), plant.place.ca_cert.read_bytes()
    write_whole(home.anchors, own + plants, PUBLIC_MODE)
    write_whole(home.certs / "plant-a-ca.crt", plants, PUBLIC_MODE)
    write_text(home.zone_file, templates.zone_yaml(_SPEC, addresses))
    endpoint = Addresses(plant.place.endpoint, plant.place.local, 0)
    write_text(home.peers_file, templates.peers_yaml(_SPEC, PLANT_A, endpoint))
    write_text(home.cursors_file, "cursors: []\n")
    write_whole(plant.paths.certs / f"{NORTH}-ca.crt", own, PUBLIC_MODE)
    write_whole(plant.paths.anchors, plant.paths.anchors.read_bytes() + own, PUBLIC_MODE)
    peer = templates.peers_yaml(PLANT_A, _SPEC, addresses).partition("peers:\n")[2]
    write_text(plant.paths.peers_file, plant.paths.peers_file.read_text() + peer)
    entry = templates.cursors_yaml(_SPEC).partition("cursors:\n")[2]
    write_text(plant.paths.cursors_file, plant.paths.cursors_file.read_text() + entry)
    return Zone(processes.zone_of(lab.directory, NORTH))
