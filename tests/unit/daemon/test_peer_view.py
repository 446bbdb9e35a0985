"""Our own metrics as the outside has them: whether they answer, and who asked last."""

from __future__ import annotations

from aiohttp import web

from bsfg.config.address import Address
from bsfg.daemon.local_api import build_tcp_application
from bsfg.daemon.local_listeners import serve_tcp
from bsfg.daemon.peer_view import METRICS_KNOWN_SECONDS, OWN_AGENT, Scrapes


class Moments:
    seconds = 0.0

    def now(self) -> int:
        return 7

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


def answering(status: int) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    return application


async def test_metrics_are_up_while_they_answer_and_the_look_is_kept_for_a_while() -> None:
    clock = Moments()
    server = await serve_tcp(answering(200), "127.0.0.1", 0)
    scrapes = Scrapes(Address("127.0.0.1", server.port), clock)
    assert await scrapes.up() is True
    await server.close()
    assert await scrapes.up() is True, "the last look still counts"
    clock.seconds = METRICS_KNOWN_SECONDS + 1
    assert await scrapes.up() is False


async def test_metrics_that_fail_are_not_up() -> None:
    server = await serve_tcp(answering(500), "127.0.0.1", 0)
    assert await Scrapes(Address("0.0.0.0", server.port), Moments()).up() is False
    await server.close()


async def test_only_others_scrape() -> None:
    clock = Moments()
    scrapes = Scrapes(Address("127.0.0.1", 1), clock)
    application = build_tcp_application(
        None,  # type: ignore[arg-type]
        metrics=lambda: b"",
        is_ready=lambda: True,
        token=None,
        scraped=scrapes.noted,
    )
    server = await serve_tcp(application, "127.0.0.1", 0)
    scrapes.address = Address("127.0.0.1", server.port)
    assert await scrapes.up() is True
    assert scrapes.last is None
    scrapes.noted(OWN_AGENT)
    assert scrapes.last is None
    scrapes.noted("Prometheus/3.0")
    assert scrapes.last == 7
    await server.close()
