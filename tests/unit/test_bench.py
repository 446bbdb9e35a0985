"""The pure parts of the bench: what it sends, how it counts, and what it makes of the figures."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from bench import document, fsyncs, native, report
from bench.facts import INBOX, Facts, page, payload
from bench.fault_proxy import delayed
from bench.latency import Latency, percentile
from bench.measure import Run
from bench.pair import sample
from bench.results import Figure, Results, Syncs, as_json, figures, gateway_peak
from bench.works import (
    FAR_SECONDS,
    ROWS,
    THREE,
    Kind,
    Quantity,
    Row,
    Side,
    Sizes,
    chosen_rows,
    groups,
    needed_sides,
)
from tests.support.patience import patience

REQUIRED_ROWS = {
    "lazy_512", "lazy_128", "lazy_4096", "lazy_512_three", "strict_512", "strict_512_postgres",
    "lazy_512_rtt100", "latency_p50", "latency_p99", "memory",
}  # fmt: skip
RATE = Row("lazy_512", "lazy_512", at_least=1.0)


def run(rate: float, **peaks: float) -> Run:
    named = {name.replace("_", " "): peak for name, peak in peaks.items()}
    return Run(1_000, 1_000 / rate, 0.0, 0.0, dict.fromkeys(named, 0.002), named)


def results_of(ours: list[Run], reference: list[Run]) -> Results:
    results = Results()
    results.transfers["lazy_512", Side.OURS] = ours
    results.transfers["lazy_512", Side.NATIVE] = reference
    return results


@pytest.mark.parametrize("size", [128, 512, 4096])
def test_a_fact_has_its_size_and_says_which_it_is(size: int) -> None:
    assert [len(payload(number, size)) for number in (0, 996, 997, 123_456)] == [size] * 4
    assert int(payload(123_456, size)[:12]) == 123_456
    assert payload(1, size)[12:] != payload(2, size)[12:]


def test_facts_are_spread_over_streams_without_a_rest() -> None:
    facts = Facts(100, 512, THREE)
    assert [facts.of(stream) for stream in THREE] == [34, 33, 33]


def test_a_page_asks_for_one_acknowledgement_at_its_end() -> None:
    lines = page("facts.operational", 5, 8, 128).split(b"\r\n")
    assert [line for line in lines if line.startswith(b"PUB")] == [
        b"PUB facts.operational.bench 128",
        b"PUB facts.operational.bench 128",
        b"PUB facts.operational.bench " + INBOX + b" 128",
    ]
    assert lines[1::2] == [payload(number, 128) for number in (5, 6, 7)]


@pytest.mark.parametrize("count", [1, 2, 25, 26, 1_000_000])
def test_a_sample_has_the_first_and_the_last_fact(count: int) -> None:
    places = sample(count)
    assert places[0] == 0
    assert places[-1] == count - 1
    assert len(places) == min(count, 25)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.5) == 7.0


def test_both_syncs_of_a_summary_are_counted_and_nothing_else() -> None:
    summary = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 91.02    0.041330         137       300           fsync
  8.98    0.004077          97        42         2 fdatasync
  0.00    0.000000           0         7           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.045407         132       349         2 total
"""
    assert fsyncs.calls(summary) == 342
    assert fsyncs.calls("") == 0


def test_the_native_servers_sync_always_only_where_the_work_is_strict(tmp_path: Path) -> None:
    texts = [
        native.configuration(name, tmp_path, port=1, monitor=2, leaf_port=3, is_strict=is_strict)
        for name in (native.HUB, native.LEAF)
        for is_strict in (False, True)
    ]
    assert ["sync_interval: always" in text for text in texts] == [False, True, False, True]
    assert "verify: true" in texts[0]
    assert all("ca_file" in text for text in texts)


def test_every_required_row_is_there_with_its_bound() -> None:
    rows = {row.work: row for row in ROWS}
    assert set(rows) >= REQUIRED_ROWS
    for work in REQUIRED_ROWS:
        assert (rows[work].at_least is None) != (rows[work].at_most is None)
        assert (rows[work].at_most is not None) == work.startswith(("latency", "memory"))


def test_every_row_is_measured_by_a_group_that_has_both_its_sides() -> None:
    by_name = {group.name: group for group in groups(Sizes())}
    for row in ROWS:
        assert {row.ours, row.reference} <= set(by_name[row.group].sides)
    assert {row.group for row in ROWS} == set(by_name)


def test_both_sides_of_a_group_have_the_same_setting_but_for_the_distance() -> None:
    for group in groups(Sizes()):
        settings = {group.setting(side) for side in group.sides if side is not Side.OURS_FAR}
        assert len(settings) == 1
        assert settings.pop().round_trip_seconds == 0
        assert group.setting(Side.OURS_FAR).round_trip_seconds == FAR_SECONDS
    assert {group.kind for group in groups(Sizes())} == set(Kind)


def test_a_single_row_needs_only_its_own_sides() -> None:
    rows = chosen_rows(["strict_512_postgres"])
    needed = {group.name: needed_sides(group, rows) for group in groups(Sizes())}
    assert needed.pop("strict_512") == (Side.OURS, Side.POSTGRES)
    assert set(needed.values()) == {()}
    assert chosen_rows([]) == list(ROWS)


def test_an_unknown_row_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"lazy_513.*lazy_512"):
        chosen_rows(["lazy_512", "lazy_513"])


def test_a_row_compares_medians_and_not_means() -> None:
    results = results_of([run(100), run(300), run(1_000)], [run(200), run(100), run(150)])
    [figure] = figures(results, [RATE])
    assert figure.ours == pytest.approx(300)
    assert figure.reference == pytest.approx(150)
    assert figure.ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("row", "ours", "reference", "is_reached"),
    [
        (RATE, 100.0, 100.0, True),
        (RATE, 99.0, 100.0, False),
        (Row("latency_p50", "latency", Quantity.LATENCY_P50, at_most=2.0), 2.0, 1.0, True),
        (Row("latency_p50", "latency", Quantity.LATENCY_P50, at_most=2.0), 2.1, 1.0, False),
        (Row("memory", "lazy_512", Quantity.MEMORY, at_most=128.0), 128.0, 128.0, True),
        (Row("memory", "lazy_512", Quantity.MEMORY, at_most=128.0), 129.0, 128.0, False),
        (Row("cpu", "lazy_512", Quantity.CPU), 1.0, 2.0, None),
        (RATE, 100.0, None, None),
        (RATE, None, 100.0, None),
    ],
)
def test_a_bound_is_held_against_the_ratio_and_for_memory_against_the_figure(
    row: Row, ours: float | None, reference: float | None, is_reached: bool | None
) -> None:
    assert Figure(row, ours, reference).is_reached is is_reached


def test_memory_is_the_worst_gateway_of_all_runs_and_no_nats_server() -> None:
    results = results_of([run(1, enterprise_gateway=40, plant_a_gateway=50)], [run(1, leaf_nats_server=900)])
    results.transfers["lazy_4096", Side.OURS] = [run(1, plant_a_gateway=60), run(1, enterprise_nats_server=700)]
    assert gateway_peak(results) == 60
    assert gateway_peak(Results()) is None


def test_the_json_has_the_keys_that_readers_know() -> None:
    results = results_of([run(100, gateway=64)], [run(200)])
    results.latencies["latency", Side.OURS] = [Latency(2.0, 4.0, 9.0)]
    results.latencies["latency", Side.NATIVE] = [Latency(1.0, 2.0, 3.0)]
    rows = {row["work"]: row for row in as_json(figures(results, ROWS))}
    assert rows["lazy_512"] == {
        "work": "lazy_512", "ours": 100.0, "reference": 200.0, "ratio": 0.5, "at_least": 1.0, "unit": "facts/s",
    }  # fmt: skip
    assert rows["latency_p99"]["at_most"] == 3.0
    assert "at_least" not in rows["latency_p99"]
    assert rows["memory"] | {"unit": ""} == {
        "work": "memory", "ours": 64.0, "reference": 128.0, "ratio": 0.5, "at_most": 128.0, "unit": "",
    }  # fmt: skip
    assert "lazy_4096" not in rows


def test_syncs_are_told_for_a_thousand_facts() -> None:
    syncs = Syncs(10_000, {"leaf nats-server": 30, "hub nats-server": 10})
    assert syncs.per_thousand() == 4
    assert syncs.per_thousand("hub nats-server") == 1
    results = Results()
    results.syncs["fsyncs_lazy", Side.OURS] = syncs
    [figure] = figures(results, chosen_rows(["fsyncs_lazy_512"]))
    assert (figure.ours, figure.reference, figure.ratio) == (4, None, None)


@pytest.mark.parametrize(("publish", "verdict"), [(400.0, ": plausible"), (99.0, "NOT plausible")])
def test_a_native_rate_beyond_what_the_server_can_store_is_called_so(publish: float, verdict: str) -> None:
    results = results_of([], [run(100)])
    results.publish_rates, results.consume_rates = [publish], [500.0]
    assert report.native_check(results).endswith(verdict)


def test_a_run_renews_the_results_of_a_document_and_nothing_else() -> None:
    results = results_of([run(100, gateway=64)], [run(200)])
    text = document.render(results, figures(results, [RATE]), ["two cores"])
    content = f"# Title\n\n{document.BEGIN}\nold\n{document.END}\nlast\n"
    renewed = document.replaced(content, text)
    assert "| `lazy_512` | 100 | 200 | native | facts/s | 0.50 | at least 1: missed | 0.0 to 0.0 |" in renewed
    assert "- two cores" in renewed
    assert "old" not in renewed
    assert (renewed.startswith("# Title\n\n"), renewed.endswith("\nlast\n")) == (True, True)
    assert document.replaced(renewed, text) == renewed


@pytest.mark.parametrize("content", ["", document.BEGIN, f"{document.END}\n{document.BEGIN}"])
def test_a_document_without_a_place_for_results_is_left_alone(content: str) -> None:
    with pytest.raises(RuntimeError, match="no place for results"):
        document.replaced(content, "text")


def test_the_performance_document_has_a_place_for_results_and_explains_every_row() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert document.replaced(text, "renewed") != text
    explained = text.partition("## What the rows mean")[2].partition("## Results")[0]
    families = ("cpu_", "fsyncs_")
    assert not [row.work for row in ROWS if f"`{row.work}`" not in explained and not row.work.startswith(families)]
    assert all(f"`{family}…`" in explained for family in families)


async def test_the_fault_proxy_passes_everything_and_each_byte_late() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(content_bytes))
        writer.close()

    content = payload(7, 300_000)
    content_bytes = len(content)
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        one_way_seconds = 0.1
        with delayed(f"{host}:{port}", one_way_seconds) as entrance:
            reader, writer = await asyncio.open_connection(*entrance.split(":"))
            began = time.monotonic()
            writer.write(content)
            async with asyncio.timeout(10 * patience()):
                returned = await reader.read(-1)
            seconds = time.monotonic() - began
            writer.close()
    assert returned == content
    # The connection's own round trip, then one for the bytes.
    assert seconds > 4 * one_way_seconds - 0.02
