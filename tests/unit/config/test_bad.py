"""Every bad input is reported with its file, line, column and a way out, and nothing else is.

In the tables a ``§`` stands before each place that must be reported; it is taken out before the file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from bsfg.config.load import load
from bsfg.errors import EXIT_USAGE, Code, ConfigurationError

WriteHome = Callable[..., Path]
ZONE: Final = (
    "zone: plant-a\nidentity: plant-a-bsfg\nstreams:\n  - name: facts.orders\n  - name: facts.shipments\n"
)
BASE: Final = "zone: plant-a\nidentity: plant-a-bsfg\n"
PEER: Final = "peers:\n  - id: enterprise\n    identity: enterprise-bsfg\n    endpoint: 10.1.1.10:9443\n"
CURSOR: Final = "cursors:\n  - peer: enterprise\n    stream: facts.operational\n"
MARK: Final = "§"


def marked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and the line and column of each."""
    places = []
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.split(MARK)
        places += [(number, len("".join(parts[: index + 1])) + 1) for index in range(len(parts) - 1)]
    return text.replace(MARK, ""), places


def problems_of(home: Path) -> list[tuple[str, int, int, str, str]]:
    with pytest.raises(ConfigurationError) as caught:
        load(home)
    assert (caught.value.code, caught.value.exit_status) == (Code.CONFIGURATION, EXIT_USAGE)
    problems = caught.value.problems
    return [(found.file, found.line, found.column, found.message, found.hint) for found in problems]


def check(home: Path, file: str, places: list[tuple[int, int]], message: str, hint: str) -> None:
    found = problems_of(home)
    assert [(name, line, column) for name, line, column, *_ in found] == [(file, *place) for place in places]
    assert message in found[0][3]
    assert hint in found[0][4]


ZONE_CASES: Final = {
    # What is missing, unknown, there twice or empty.
    "empty file": ("§§", "identity is missing", "add 'identity"),
    "zone is missing": ("§identity: plant-a-bsfg\n", "zone is missing", "add 'zone"),
    "unknown key": (
        BASE + "§identity_form: dns\n",
        "unknown key 'identity_form'",
        "did you mean identity_from?",
    ),
    "unknown key in a section": (
        BASE + "log: {§fromat: json}\n",
        "unknown key 'fromat'",
        "did you mean format?",
    ),
    "unknown key in a list": (
        BASE + "streams:\n  - {name: a.b, §max_bites: 1GB}\n",
        "",
        "did you mean max_bytes?",
    ),
    "unknown key two levels down": (
        BASE + "substrate: {embedded: {§prt: 1}}\n",
        "'prt'",
        "did you mean port?",
    ),
    "unknown limit": (BASE + "limits:\n  §conections_max: 3\n", "", "did you mean connections_max?"),
    "look-alike key": (
        BASE + "§\u0430rtifacts: {}\n",
        "unknown key '\\u0430rtifacts'",
        "did you mean artifacts?",
    ),
    "duplicate key": (BASE + "§zone: plant-b\n", "duplicate key 'zone'", "first in line 1"),
    "no value": (BASE + "§listen:\n", "listen has no value", "remove the line"),
    "null value": (BASE + "listen: §~\n", "listen has no value", ""),
    "empty list entry": (BASE + "streams:\n  -§\n", "entry of streams has no value", ""),
    # Types.
    "a list for a file": ("§- zone: plant-a\n", "the file must be a mapping of keys, not a list", ""),
    "a word for a file": ("§plant-a\n", "the file must be a mapping of keys, not the text", ""),
    "number for text": ("zone: §17\nidentity: x\n", "zone: must be text, not the number 17", "quote it"),
    "list for text": ("zone: §[a]\nidentity: x\n", "zone: must be text, not a list", ""),
    "text for list": (BASE + "streams: §facts.orders\n", "streams must be a list", ""),
    "text for mapping": (BASE + "log: §json\n", "log must be a mapping of keys", ""),
    "text for mapping in list": (
        BASE + "streams: [§facts.orders]\n",
        "entry of streams must be a mapping",
        "",
    ),
    "yes for true": (BASE + "lab: §yes\n", "lab must be true or false, not the text 'yes'", "YAML 1.2"),
    "quoted true": (BASE + 'lab: §"true"\n', "lab must be true or false", ""),
    "one for true": (BASE + "lab: §1\n", "lab must be true or false, not the number 1", ""),
    "false for off": (BASE + "revocation: {ocsp: §false}\n", "must be one of off, check, not false", ""),
    "text for number": (BASE + 'substrate: {embedded: {port: §"4222"}}\n', "port must be a whole number", ""),
    "true for a limit": (BASE + "limits: {connections_max: §true}\n", "must be a whole number, not true", ""),
    "fraction for number": (
        BASE + "substrate: {embedded: {port: §1.5}}\n",
        "port must be a whole number",
        "",
    ),
    "hexadecimal": (BASE + "substrate: {embedded: {port: §0x10}}\n", "'0x10' is not in plain decimal", ""),
    "leading zero": (BASE + "substrate: {embedded: {port: §04222}}\n", "'04222' is not in plain decimal", ""),
    "underscores": (BASE + "substrate: {embedded: {port: §4_222}}\n", "'4_222' is not in plain decimal", ""),
    "huge number": (BASE + f"substrate: {{embedded: {{port: §{'9' * 5000}}}}}\n", "is too large", ""),
    # Names.
    "zone in capitals": (
        "zone: §Plant-A\nidentity: x\n",
        "zone id 'Plant-A' is not of the form",
        "for example",
    ),
    "zone with underscore": ("zone: §plant_a\nidentity: x\n", "zone id 'plant_a'", ""),
    "zone of 33": (f"zone: §{'a' * 33}\nidentity: x\n", "zone id", ""),
    "zone look-alike": ("zone: §pl\u0430nt-a\nidentity: x\n", "zone id 'pl\\u0430nt-a'", ""),
    "stream with wildcard": (BASE + "streams: [{name: §facts.*}]\n", "stream name 'facts.*'", "wildcards"),
    "stream with >": (BASE + "streams: [{name: §facts.>}]\n", "stream name 'facts.>'", "wildcards"),
    "stream with space": (BASE + "streams: [{name: §facts orders}]\n", "stream name 'facts orders'", ""),
    "stream with two dots": (BASE + "streams: [{name: §facts..orders}]\n", "joined by single dots", ""),
    "stream with last dot": (BASE + "streams: [{name: §facts.}]\n", "joined by single dots", ""),
    "stream look-alike": (BASE + "streams: [{name: §f\u0430cts}]\n", "stream name 'f\\u0430cts'", ""),
    "stream of 65": (BASE + f"streams: [{{name: §{'a' * 65}}}]\n", "longer than 64", ""),
    "stream that is inbound": (
        BASE + "streams: [{name: §in.enterprise}]\n",
        "reserved word",
        "never exported",
    ),
    "stream of our own": (BASE + "streams: [{name: §bsfg_links}]\n", "reserved word", ""),
    "stream twice": (
        BASE + "streams: [{name: a.b},\n  {name: §a.b}]\n",
        "stream a.b is listed twice",
        "in line 3",
    ),
    "streams that map to one": (
        BASE + "streams: [{name: a.b}, {name: §a_b}]\n",
        "collides with a.b in line 3",
        "",
    ),
    "stream below another": (BASE + "streams: [{name: a}, {name: §a.b}]\n", "a.b collides with a ", ""),
    "stream above another": (BASE + "streams: [{name: a.b}, {name: §a}]\n", "a collides with a.b ", ""),
    "stream without name": (BASE + "streams: [§{max_bytes: 1GB}]\n", "name is missing", ""),
    "audit stream unknown": (
        ZONE + "audit_stream: §facts.order\n",
        "not one of the streams",
        "facts.orders?",
    ),
    # Identities.
    "identity with wildcard": ('zone: a\nidentity: §"*.plant"\n', "'*.plant' is not a DNS name", "wildcards"),
    "identity with space": ("zone: a\nidentity: §plant a\n", "is not a DNS name", ""),
    "identity with two dots": ("zone: a\nidentity: §plant..a\n", "is not a DNS name", ""),
    "identity look-alike": ("zone: a\nidentity: §pl\u0430nt\n", "'pl\\u0430nt' is not a DNS name", ""),
    "identity is an address": ("zone: a\nidentity: §10.1.1.10\n", "is not a DNS name", ""),
    "identity is a URI": ('zone: a\nidentity: §"urn:a"\n', "is not a DNS name", "identity_from: uri"),
    "empty identity": ('zone: a\nidentity: §""\n', "needs 1 to 1024 characters", ""),
    "URI expected": (
        "zone: a\nidentity_from: uri\nidentity: §plant-a\n",
        "is not an absolute URI",
        "spiffe://",
    ),
    "URI with wildcard": (
        'zone: a\nidentity_from: uri\nidentity: §"spiffe://a/*"\n',
        "is not an absolute URI",
        "",
    ),
    "URI of nothing": ('zone: a\nidentity_from: uri\nidentity: §"spiffe://"\n', "is not an absolute URI", ""),
    "subject for ourselves": (BASE + "identity_from: §subject\n", "only for a peer", "use dns or uri"),
    "identity_from misspelt": (
        BASE + "identity_from: §dsn\n",
        "must be one of dns, uri, subject",
        "mean dns?",
    ),
    "bad SAN extra": (BASE + "identity_san_extra: [ok, §a b]\n", "'a b' is not a DNS name", ""),
    "SAN extra twice": (BASE + "identity_san_extra: [§Plant-A-BSFG]\n", "stands here twice", ""),
    # Addresses.
    "port 0": (BASE + "listen: §0.0.0.0:0\n", "no port from 1 to 65535", "host:port"),
    "port 65536": (BASE + "listen: §0.0.0.0:65536\n", "no port from 1 to 65535", ""),
    "no port": (BASE + "listen: §0.0.0.0\n", "has no port", ""),
    "full-width port": (BASE + "listen: §0.0.0.0:\uff19\uff14\n", "no port from 1 to 65535", ""),
    "v6 without brackets": (BASE + 'listen: §"::1:9443"\n', "is not an address", "[v6]:port"),
    "bad octet": (BASE + "listen: §10.0.0.256:9443\n", "'10.0.0.256' is not a host", ""),
    "no host": (BASE + 'listen: §":9443"\n', "'' is not a host", ""),
    "a URL for an address": (BASE + "listen: §https://a:9443\n", "is not an address", ""),
    "local is open without token": (BASE + "local: §10.3.1.10:9480\n", "no local_token_file", "loopback"),
    "local wildcard without token": (BASE + "local: §0.0.0.0:9480\n", "no local_token_file", ""),
    "both listeners on one port": (BASE + "local: §127.0.0.1:9443\n", "take the same port", "its own"),
    # Durations and sizes.
    "plain number for duration": (
        BASE + "streams: [{name: a, max_age: §7}]\n",
        "a duration with its unit",
        "7d",
    ),
    "quoted number for duration": (BASE + 'streams: [{name: a, max_age: §"7"}]\n', "'7' has no unit", "7d"),
    "unknown duration": (BASE + "streams: [{name: a, max_age: §7 days}]\n", "'7 days' is not a duration", ""),
    "unknown duration unit": (BASE + "streams: [{name: a, max_age: §7D}]\n", "unknown unit 'D'", "mean 7d?"),
    "no duration": (BASE + "streams: [{name: a, max_age: §0d}]\n", "not between 1ms and 100 years", ""),
    "negative duration": (BASE + "streams: [{name: a, max_age: §-7d}]\n", "is not a duration", ""),
    "part of a second": (BASE + "streams: [{name: a, max_age: §1500ms}]\n", "not in whole seconds", ""),
    "duration of ages": (BASE + "streams: [{name: a, max_age: §99999d}]\n", "100 years", ""),
    "plain number for size": (BASE + "streams: [{name: a, max_bytes: §10}]\n", "a size with its unit", "GiB"),
    "quoted number for size": (BASE + 'streams: [{name: a, max_bytes: §"10"}]\n', "'10' has no unit", ""),
    "unknown size unit": (BASE + "streams: [{name: a, max_bytes: §10gib}]\n", "unit 'gib'", "mean 10GiB?"),
    "half a size": (BASE + "streams: [{name: a, max_bytes: §1.5GiB}]\n", "is not a size", ""),
    "no size": (BASE + "streams: [{name: a, max_bytes: §0GiB}]\n", "not between", ""),
    # Substrate.
    "substrate misspelt": (BASE + "substrate: §embeded\n", "must be embedded or a mapping", "mean embedded?"),
    "substrate of nothing": (BASE + "substrate: §{}\n", "neither embedded nor a url", ""),
    "substrate of both": (BASE + 'substrate: {embedded: {}, §url: "tls://a"}\n', "does not go with", ""),
    "substrate without url": (BASE + "substrate: §{replicas: 3}\n", "neither embedded nor a url", ""),
    "substrate of another kind": (BASE + 'substrate: {url: §"http://a:1"}\n', "not a URL of tls or nats", ""),
    "substrate with password": (BASE + 'substrate: {url: §"tls://u:p@a"}\n', "user or password", "in a file"),
    "substrate with path": (BASE + 'substrate: {url: §"tls://a/b"}\n', "not just scheme, host and port", ""),
    "substrate mixed": (BASE + 'substrate: {url: §"tls://a,nats://b"}\n', "mixes", ""),
    "substrate with bad port": (BASE + 'substrate: {url: §"tls://a:99999"}\n', "is not a server's URL", ""),
    "substrate without host": (BASE + 'substrate: {url: §"tls://:4222"}\n', "is not a host", ""),
    "six replicas": (BASE + 'substrate: {url: "tls://a", replicas: §6}\n', "must be at most 5", ""),
    "port of embedded": (BASE + "substrate: {embedded: {port: §0}}\n", "must be at least 1", ""),
    "monitor twice": (
        BASE + 'substrate: {url: "tls://a", monitor: ["http://a:1", §"http://a:1"]}\n',
        "twice",
        "",
    ),
    # Artifacts, log, limits.
    "no such store": (BASE + "artifacts: {store: §ftp}\n", "must be s3 or file:PATH", ""),
    "store on a host": (BASE + 'artifacts: {store: §"file://host/x"}\n', "must be s3 or file:PATH", ""),
    "store is the home": (BASE + 'artifacts: {store: §"file:."}\n', "needs a directory of its own", ""),
    "s3 without endpoint": (BASE + "artifacts: §{store: s3, region: x}\n", "endpoint is missing", ""),
    "endpoint without s3": (BASE + "artifacts: {§region: x}\n", "region is only for store: s3", ""),
    "redirect without s3": (BASE + "artifacts: {redirect: §on}\n", "redirect is only for store: s3", ""),
    "bucket with a slash": (BASE + "artifacts: {bucket: §a/b}\n", "'a/b' is not a bucket name", ""),
    "quotas": (BASE + "artifacts: {quota: 1GiB, quota_per_peer: §2GiB}\n", "larger than quota", ""),
    "region": (BASE + "artifacts: {store: s3, endpoint: 'http://a', region: §a b}\n", "is not a region", ""),
    "endless identity": (
        f"zone: a\nidentity_from: uri\nidentity: §urn:{'a' * 1021}\n",
        "needs 1 to 1024",
        "",
    ),
    "path with spaces around": (BASE + 'log: {file: §" a"}\n', "' a' is not a file path", ""),
    "endless path": (BASE + f"log: {{file: §{'a' * 4001}}}\n", "is not a file path", ""),
    "too many servers": (BASE + f"substrate: {{url: §'{'tls://a,' * 64}tls://a'}}\n", "more than 64", ""),
    "server of a user": (BASE + 'substrate: {url: §"tls://token@a"}\n', "user or password", "in a file"),
    "server with an empty user": (
        BASE + 'substrate: {url: §"tls://:p@a"}\n',
        "user or password",
        "in a file",
    ),
    "server with query": (BASE + 'substrate: {url: §"tls://a?b"}\n', "not just scheme, host and port", ""),
    "server with fragment": (BASE + 'substrate: {url: §"tls://a#b"}\n', "not just scheme, host and port", ""),
    "server with port 0": (BASE + 'substrate: {url: §"tls://a:0"}\n', "not just scheme, host and port", ""),
    "server with a tab": (BASE + 'substrate: {url: §"tls://a\\tb"}\n', "not a URL of tls or nats", ""),
    "monitor with a space": (
        BASE + 'substrate: {url: "tls://a", monitor: [§" http://a"]}\n',
        "not a URL of",
        "",
    ),
    "path with tilde": (BASE + "log: {file: §~/bsfg.log}\n", "begins with '~'", "in full"),
    "identity_from misspelt, so the form is not known": (
        "zone: a\nidentity: urn:a\nidentity_from: §ur\n",
        "must be one of dns, uri, subject",
        "uri?",
    ),
    "no listen address, so no overlap": (
        BASE + "local: 127.0.0.1:9443\nlisten: §10.0.0.1\n",
        "has no port",
        "",
    ),
    "no local address, so no overlap": (BASE + "listen: 0.0.0.0:9480\nlocal: §10.0.0.1\n", "has no port", ""),
    "lost stream, so the audit stream may be good": (
        BASE + "streams: [{name: §Facts}]\naudit_stream: facts\n",
        "stream name 'Facts'",
        "",
    ),
    "lost limit, so no crossing": (
        BASE + "limits: {retry_delay_seconds_min: 5s, retry_delay_seconds_max: §1}\n",
        "a duration with its unit",
        "",
    ),
    "empty path": (BASE + 'log: {file: §""}\n', "'' is not a file path", ""),
    "path with a control": (BASE + 'log: {file: §"a\\nb"}\n', "is not a file path", ""),
    "log format": (BASE + "log: {format: §jsn}\n", "must be one of json, text", "mean json?"),
    "limit out of range": (
        BASE + "limits: {poll_wait_seconds: §6s}\n",
        "must be from 100ms to 5s, not 6s",
        "",
    ),
    "limit without unit": (
        BASE + "limits: {connect_seconds: §3}\n",
        "a duration with its unit",
        "example 3s",
    ),
    "limits that cross": (
        BASE + "limits: {retry_delay_seconds_min: §2s, retry_delay_seconds_max: 1s}\n",
        "retry_delay_seconds_min is larger than retry_delay_seconds_max",
        "",
    ),
    "limit crosses a default": (
        BASE + "limits: {connections_max: §8}\n",
        "peer_connections_max is larger",
        "",
    ),
    # YAML.
    "tab": (BASE + "log:\n§\tformat: json\n", "a tab where YAML wants spaces", "with spaces"),
    "alias": (
        BASE + "log: {format: §&f json, file: §*f, §x: 1}\n",
        "anchor &f is not allowed",
        "write the value out",
    ),
    "anchor of a mapping": (BASE + "log: §&f {}\n", "anchor &f is not allowed", ""),
    "tag of a list": (BASE + "streams: §!!seq []\n", "tag '!!seq' is not allowed", ""),
    "merge key": (BASE + "log: {§<<: {format: json}}\n", "merge key << is not allowed", ""),
    "tag": (BASE + "lab: §!!bool true\n", "tag '!!bool' is not allowed", ""),
    "python tag": (BASE + "lab: §!!python/object:os.system x\n", "tag '!!python/object:os.system'", ""),
    "directive": ("%YAML 1.1\n§---\n" + BASE, "directives are not allowed", ""),
    "tag directive": ("%TAG ! tag:x:\n§---\n" + BASE, "directives are not allowed", ""),
    "two documents": (BASE + "§---\nzone: plant-b\n", "a second YAML document", ""),
    "more in the second document": (BASE + "§---\nzone: *b\n", "a second YAML document", ""),
    "nothing but a tag": ("§!!map x\n", "tag '!!map' is not allowed", ""),
    "no such character": (BASE + 'listen§: "\\U00110000"\n', "is not valid YAML", ""),
    "open bracket": (
        BASE + "listen: [1\n§",
        "is not valid YAML: expected ',' or ']', but got '<stream end>', while parsing a flow sequence"
        " that begins at line 3",
        "",
    ),
    "endless key": (BASE + "§" + "k" * 201 + ": 1\n", "a key that is not a short word", ""),
    "list as key": (BASE + "? §[a, b]\n: 1\n", "a key that is not a short word", ""),
    "brackets not quoted": (BASE + "listen: [::1]§:9443\n", "is not valid YAML", "quote values"),
    "open quote": (BASE + "listen: 'a\n§", "unexpected end of stream", ""),
    "colon": (BASE + "listen: a§: b\n", "mapping values are not allowed here", ""),
    "control character": (BASE + "listen: a§\x07\n", "character U+0007 is not allowed", ""),
    "surrogate": (BASE + 'listen: §"\\ud800"\n', "half of a surrogate pair", ""),
    "deep": (BASE + "listen: " + "[" * 15 + "§[", "nested deeper than 16 levels", ""),
}


@pytest.mark.parametrize("case", ZONE_CASES)
def test_zone(write_home: WriteHome, case: str) -> None:
    text, message, hint = ZONE_CASES[case]
    written, places = marked(text)
    check(write_home(zone=written), "config/zone.yaml", places, message, hint)


PEERS_CASES: Final = {
    "authorized: no": (
        PEER + "    authorized: §no\n",
        "true or false, not the text 'no'",
        "texts in YAML 1.2",
    ),
    "authorized: yes": (PEER + "    authorized: §yes\n", "true or false, not the text 'yes'", ""),
    "authorised": (PEER + "    §authorised: true\n", "unknown key 'authorised'", "did you mean authorized?"),
    "unknown key of the file": ("§peer: []\n", "unknown key 'peer'", "did you mean peers?"),
    "not in a list": ("peers: §{id: enterprise}\n", "peers must be a list", "'- ' line"),
    "a word": ("peers: [§enterprise]\n", "entry of peers must be a mapping", ""),
    "all missing": ("peers:\n  - §§{}\n".replace("§§", "§§§"), "endpoint is missing", ""),
    "peer is ourselves": (
        PEER.replace("enterprise\n", "§plant-a\n", 1),
        "id 'plant-a' is taken",
        "this zone's own id",
    ),
    "peer twice": (
        PEER + "  - {id: §enterprise, identity: other, endpoint: 'a:1'}\n",
        "id 'enterprise' is taken",
        "line 2",
    ),
    "identity twice": (
        PEER + "  - {id: other, identity: §Enterprise-BSFG, endpoint: 'a:1', artifact_bucket: x}\n",
        "is taken",
        "that of the peer in line 3",
    ),
    "identity is ours": (
        PEER.replace("enterprise-bsfg", "§plant-a-bsfg") + "    artifact_bucket: x\n",
        "is taken",
        "own",
    ),
    "bucket twice": (
        PEER + "  - {id: b, identity: b, endpoint: 'a:1', artifact_bucket: §enterprise-bsfg-artifacts}\n",
        "artifact_bucket 'enterprise-bsfg-artifacts' is taken",
        "",
    ),
    "bad identity": (PEER.replace("enterprise-bsfg", '§"*"'), "'*' is not a DNS name", ""),
    "common name": (
        PEER.replace("enterprise-bsfg", '§"a*"') + "    identity_from: subject\n",
        "'a*' is not a plain common name",
        "wildcards",
    ),
    "common name with two dots": (
        PEER.replace("enterprise-bsfg", "§a..b") + "    identity_from: subject\n",
        "'a..b' is not a plain common name",
        "",
    ),
    "extra with subject": (
        PEER + "    identity_from: subject\n    identity_san_extra: §[a]\n",
        "does not go with identity_from: subject",
        "",
    ),
    "endpoint without port": (PEER.replace("10.1.1.10:9443", "§10.1.1.10"), "has no port", ""),
    "endpoint of nowhere": (PEER.replace("10.1.1.10:9443", "§0.0.0.0:9443"), "names no host", ""),
    "stream unknown": (
        PEER + "    streams: [facts.orders, §facts.shipment]\n",
        "not one of",
        "facts.shipments?",
    ),
    "stream unlike any": (PEER + "    streams: [§telemetry]\n", "not one of", "facts.orders"),
    "inbound stream": (PEER + "    streams: [§in.plant-b.facts]\n", "stream name 'in.plant-b.facts'", ""),
    "inbound stream, well formed": (
        PEER + "    streams: [§in.plantb.facts]\n",
        "reserved word",
        "never exported",
    ),
    "stream with wildcard": (PEER + '    streams: [§"facts.>"]\n', "stream name 'facts.>'", ""),
    "stream is a number": (PEER + "    streams: [§7]\n", "entry of streams: must be text", ""),
    "stream twice": (PEER + "    streams: [facts.orders, §facts.orders]\n", "is listed twice", ""),
    "artifact type of two segments": (PEER + "    artifacts: [§a/b]\n", "not one plain path segment", ""),
    "artifact type dots": (PEER + "    artifacts: [§..]\n", "not one plain path segment", ""),
    "artifact type wildcard": (PEER + '    artifacts: [§"*"]\n', "not one plain path segment", ""),
    "artifact type look-alike": (PEER + "    artifacts: [§or\u0501er]\n", "not one plain path segment", ""),
    "artifact type twice": (PEER + "    artifacts: [a, §a]\n", "a is listed twice", ""),
    "redirect host": (PEER + "    artifact_redirect_host: §http://a\n", "has no port from 1", ""),
    "reference is a number": (
        PEER + "    reference: §1234\n",
        "must be text, not the number 1234",
        "quote it",
    ),
    "endless reference": (PEER + f"    reference: §{'a' * 1001}\n", "needs 1 to 1000", ""),
    "reference with an escape": (PEER + '    reference: §"CHG\\e[31m"\n', "needs 1 to 1000 printable", ""),
    "anchor is a list": (PEER + "    trust_anchor: §[a]\n", "trust_anchor: must be text, not a list", ""),
}


@pytest.mark.parametrize("case", PEERS_CASES)
def test_peers(write_home: WriteHome, case: str) -> None:
    text, message, hint = PEERS_CASES[case]
    written, places = marked(text)
    check(write_home(zone=ZONE, peers=written), "config/peers.yaml", places, message, hint)


def cursor(lines: str) -> str:
    return CURSOR + lines


WHY: Final = "    justification: because\n"
CURSORS_CASES: Final = {
    "no backfill": (
        cursor("    init_mode: §bounded_backfill_0h\n"),
        "bounded_backfill_0h",
        "N is at least 1",
    ),
    "backfill of N": (
        cursor("    init_mode: §bounded_backfill_Nh\n" + WHY),
        "init_mode is not one of",
        "48h",
    ),
    "backfill of ages": (cursor("    init_mode: §bounded_backfill_9999999h\n" + WHY), "longer than", ""),
    "full-width hours": (
        cursor("    init_mode: §bounded_backfill_\uff12\uff14h\n" + WHY),
        "is not one of",
        "",
    ),
    "mode misspelt": (cursor("    init_mode: §start_nwo\n" + WHY), "'start_nwo'", "did you mean start_now?"),
    "mode misspelt beside a timestamp": (
        cursor("    init_mode: §explicit\n    init_timestamp: 2025-01-15T10:00:00Z\n" + WHY),
        "init_mode 'explicit'",
        "",
    ),
    "lost mode, so its timestamp may be good": (
        cursor("    init_mode: §5\n    init_timestamp: 2025-01-15T10:00:00Z\n"),
        "init_mode: must be text",
        "",
    ),
    "lost timestamp": (
        cursor("    init_mode: explicit_timestamp\n    init_timestamp: §5\n" + WHY),
        "init_timestamp: must be text",
        "",
    ),
    "links of nobody do not collide": ("cursors:\n- §stream: a.b\n- §stream: a.b\n", "peer is missing", ""),
    "empty mode": (cursor('    init_mode: §""\n'), "needs 1 to 64", ""),
    "endless mode": (cursor(f"    init_mode: §bounded_backfill_{'9' * 5000}h\n"), "needs 1 to 64", ""),
    "no timestamp": (
        cursor("    init_mode: §explicit_timestamp\n" + WHY),
        "needs init_timestamp",
        "init_timestamp:",
    ),
    "naive timestamp": (
        cursor('    init_mode: explicit_timestamp\n    init_timestamp: §"2025-01-15T10:00:00"\n' + WHY),
        "not an RFC 3339 time with a zone",
        '"2025-01-15T10:00:00Z"',
    ),
    "naive timestamp, not quoted": (
        cursor("    init_mode: explicit_timestamp\n    init_timestamp: §2025-01-15 10:00:00\n" + WHY),
        "not an RFC 3339 time with a zone",
        "",
    ),
    "day that is not": (
        cursor("    init_mode: explicit_timestamp\n    init_timestamp: §2025-02-30T10:00:00Z\n" + WHY),
        "init_timestamp '2025-02-30T10:00:00Z': day",
        "",
    ),
    "full-width timestamp": (
        cursor("    init_mode: explicit_timestamp\n    init_timestamp: §\uff12025-01-15T10:00:00Z\n" + WHY),
        "not an RFC 3339 time with a zone",
        "",
    ),
    "timestamp for nothing": (
        cursor("    init_mode: start_now\n    init_timestamp: §2025-01-15T10:00:00Z\n" + WHY),
        "only for init_mode explicit_timestamp",
        "remove init_timestamp",
    ),
    "timestamp with the default mode": (
        cursor("    init_timestamp: §2025-01-15T10:00:00Z\n"),
        "only for init_mode explicit_timestamp",
        "remove init_timestamp",
    ),
    "no justification": (
        cursor("    init_mode: §full_backfill\n"),
        "needs a justification",
        "justification: ...",
    ),
    "no justification for 48h": (
        cursor("    init_mode: §bounded_backfill_48h\n"),
        "needs a justification",
        "",
    ),
    "no justification for now": (cursor("    init_mode: §start_now\n"), "needs a justification", ""),
    "no justification for a time": (
        cursor("    init_mode: §explicit_timestamp\n    init_timestamp: 2025-01-15T10:00:00Z\n"),
        "needs a justification",
        "",
    ),
    "blank justification": (
        cursor('    init_mode: start_now\n    justification: §" "\n'),
        "needs 1 to 1000",
        "",
    ),
    "unknown peer": (
        CURSOR.replace("enterprise", "§enterprize"),
        "is not in config/peers.yaml",
        "enterprise?",
    ),
    "peer with capitals": (CURSOR.replace("enterprise", "§Enterprise"), "zone id 'Enterprise'", ""),
    "stream with wildcard": (CURSOR.replace("facts.operational", '§"facts.*"'), "stream name 'facts.*'", ""),
    "inbound stream": (CURSOR.replace("facts.operational", "§in.facts"), "reserved word", ""),
    "nothing": ("cursors:\n  - §§{}\n", "peer is missing", ""),
    "link twice": (cursor("  - {peer: enterprise, stream: §facts.operational}\n"), "listed twice", "line 3"),
    "links that map to one": (
        cursor("  - {peer: enterprise, stream: §facts_operational}\n"),
        "collides with",
        "",
    ),
    "link below another": (
        cursor("  - {peer: enterprise, stream: §facts.operational.x}\n"),
        "collides with",
        "",
    ),
    "start": (cursor("    start: §later\n"), "must be one of load, manual", ""),
    "on_gap": (cursor("    on_gap: §record\n"), "must be one of halt, record_and_continue", ""),
    "on_unstorable": (cursor("    on_unstorable: §skip\n"), "must be one of halt, quarantine", ""),
    "artifacts": (cursor("    artifacts: §on\n"), "must be one of off, mirror", ""),
    "compression": (cursor("    compression: §gzip\n"), "must be one of off, zstd", ""),
    "priority": (cursor("    priority: §10\n"), "priority must be at most 9", ""),
    "priority below": (cursor("    priority: §-1\n"), "priority must be at least 0", ""),
    "bytes per second": (cursor("    max_bytes_per_second: §1000\n"), "a size with its unit", ""),
    "canary": (cursor("    canary: §30\n"), "a duration with its unit", "30s"),
    "keep nothing": (cursor("    keep: §{}\n"), "keep sets no limit", "remove keep"),
    "keep without unit": (cursor("    keep: {max_age: §30}\n"), "a duration with its unit", ""),
    "unknown key": (
        cursor("    §init_mod: start_now\n"),
        "unknown key 'init_mod'",
        "did you mean init_mode?",
    ),
}


@pytest.mark.parametrize("case", CURSORS_CASES)
def test_cursors(write_home: WriteHome, case: str) -> None:
    text, message, hint = CURSORS_CASES[case]
    written, places = marked(text)
    check(write_home(zone=ZONE, peers=PEER, cursors=written), "config/cursors.yaml", places, message, hint)


def test_the_bases_of_the_tables_are_good(write_home: WriteHome) -> None:
    """The positive twin: without its one mistake, each table's text loads."""
    configuration = load(write_home(zone=ZONE, peers=PEER, cursors=CURSOR))
    assert (len(configuration.peers), len(configuration.links)) == (1, 1)
