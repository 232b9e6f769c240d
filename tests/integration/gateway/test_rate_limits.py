"""Rate limits of keys and addresses, over real HTTP, counted in a real Redis."""

import asyncio
import secrets
import signal
from collections import Counter
from ipaddress import IPv6Address

import httpx
import openai
import psutil
import pytest
import structlog

from services.gateway.http import rate_limits
from services.operations.local.process import LocalProcess
from tests.integration.gateway.conftest import Gateway, StartGateway, until
from tests.servers import RedisServer, StartRedis

BAD = {"Authorization": "Bearer lyra_wrong"}
OFF = {"rate_limit_per_key": "", "rate_limit_per_address": "", "rate_limit_failed_keys": ""}


def new_address() -> str:
    """An address in a /64 that no other test uses."""
    return str(IPv6Address((0x20010DB8 << 96) + (secrets.randbits(32) << 64) + secrets.randbits(64)))


@pytest.fixture
def address() -> str:
    return new_address()


async def ask(gateway: Gateway, address: str = "192.0.2.1", **headers: str) -> httpx.Response:
    """A request from `address` by way of a trusted proxy, with the gateway's key unless `headers` have another."""
    return await gateway.http.get("/v1/models", headers={"X-Forwarded-For": address, **headers})


@pytest.fixture
def behind_proxy(redis_server: RedisServer) -> dict[str, object]:
    """Settings of gateways that share a Redis and trust a proxy on this machine, with long timeouts."""
    return {
        "redis_url": redis_server.url,
        "trusted_proxies": "127.0.0.1",
        "rate_limit_redis_seconds": 30.0,
        **OFF,
    }


async def test_gateways_share_and_report_the_count_of_a_key(
    start_gateway: StartGateway, behind_proxy: dict[str, object]
) -> None:
    first, second = [await start_gateway({}, **behind_proxy | {"rate_limit_per_key": "3/hour"}) for _ in range(2)]
    key = {"Authorization": f"Bearer {first.secret}"}
    passed = [await ask(gateway, **key) for gateway in (first, second, first)]
    refused = await ask(second, **key)

    assert [each.status_code for each in passed] == [200, 200, 200]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in passed] == ["2", "1", "0"]
    assert all(each.headers["x-ratelimit-limit-requests"] == "3" for each in (*passed, refused))
    assert all(each.headers["ratelimit-policy"] == '"key";q=3;w=3600' for each in (*passed, refused))
    assert refused.status_code == 429
    assert refused.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    wait = int(refused.headers["retry-after"])
    assert 0 < wait <= 3600
    assert refused.headers["ratelimit"] == f'"key";r=0;t={wait}'
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")


async def test_the_openai_client_recognizes_the_limit_which_is_per_key(
    start_gateway: StartGateway, behind_proxy: dict[str, object]
) -> None:
    gateway = await start_gateway({}, **behind_proxy | {"rate_limit_per_key": "1/hour"})
    await gateway.openai.models.list()
    with pytest.raises(openai.RateLimitError) as caught:
        await gateway.openai.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    _, secret = gateway.keys.create("acme")
    assert (await gateway.openai.with_options(api_key=secret).models.list()).data


async def test_an_address_is_limited_across_its_keys_and_an_ipv6_network_counts_as_one(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    gateway = await start_gateway({}, **behind_proxy | {"rate_limit_per_address": "2/hour"})
    _, other = gateway.keys.create("acme")
    neighbour = str(IPv6Address(int(IPv6Address(address)) ^ 1))
    assert (await ask(gateway, address)).status_code == 200
    assert (await ask(gateway, neighbour, Authorization=f"Bearer {other}")).status_code == 200
    refused = await ask(gateway, address)
    assert refused.status_code == 429
    assert refused.headers["ratelimit-policy"] == '"address";q=2;w=3600'
    assert (await ask(gateway, new_address())).status_code == 200


async def test_requests_refused_by_address_do_not_count_against_the_key(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    limits = {"rate_limit_per_address": "1/hour", "rate_limit_per_key": "2/hour"}
    gateway = await start_gateway({}, **behind_proxy | limits)
    assert [(await ask(gateway, address)).status_code for _ in range(3)] == [200, 429, 429]
    answer = await ask(gateway, new_address())
    assert answer.headers["ratelimit"].startswith('"address";r=0;')
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


async def test_failed_keys_are_limited_across_gateways_and_valid_keys_pass(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    first, second = [await start_gateway({}, **behind_proxy | {"rate_limit_failed_keys": "2/hour"}) for _ in range(2)]
    answers = [await ask(gateway, address, **BAD) for gateway in (first, second, first)]
    assert [each.status_code for each in answers] == [401, 401, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "x-ratelimit-limit-requests" not in answers[-1].headers

    assert (await ask(second, address)).status_code == 200
    assert (await ask(second, new_address(), **BAD)).status_code == 401
    metrics = (await first.http.get("/metrics")).text
    assert 'lyra_rate_limited_total{limit="failed_keys"}' in metrics
    assert 'lyra_failed_keys_total{reason="unknown"}' in metrics


async def test_concurrent_requests_are_each_counted_once(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    gateways = [await start_gateway({}, **behind_proxy | {"rate_limit_failed_keys": "20/hour"}) for _ in range(2)]
    answers = await asyncio.gather(*[ask(gateways[number % 2], address, **BAD) for number in range(80)])
    assert Counter(each.status_code for each in answers) == {401: 20, 429: 60}


async def test_requests_without_a_valid_key_do_not_use_up_the_limits_of_valid_keys(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    gateway = await start_gateway({}, **behind_proxy | {"rate_limit_per_address": "1/hour"})
    for headers in (BAD, {"Authorization": ""}, BAD):
        assert (await ask(gateway, address, **headers)).status_code == 401
    assert (await ask(gateway, address)).status_code == 200


async def test_an_expired_or_revoked_key_counts_as_a_failed_one(
    start_gateway: StartGateway, behind_proxy: dict[str, object], address: str
) -> None:
    gateway = await start_gateway({}, **behind_proxy | {"rate_limit_failed_keys": "1/hour"})
    gateway.keys.revoke(gateway.key.id)
    assert [(await ask(gateway, address)).status_code for _ in range(2)] == [401, 429]


async def test_without_limits_there_are_no_rate_limit_headers(
    start_gateway: StartGateway, behind_proxy: dict[str, object]
) -> None:
    gateway = await start_gateway({}, **behind_proxy)
    answers = [await ask(gateway) for _ in range(5)] + [await ask(gateway, **BAD) for _ in range(25)]
    assert [each.status_code for each in answers] == [200] * 5 + [401] * 25
    assert not [name for each in answers for name in each.headers if "ratelimit" in name]


def freeze(process: LocalProcess, number: signal.Signals) -> None:
    port = process.port
    for each in psutil.Process().children(recursive=True):
        if any(
            connection.laddr.port == port for connection in each.net_connections("tcp") if connection.status == "LISTEN"
        ):
            each.send_signal(number)


async def test_while_redis_hangs_each_gateway_counts_locally(
    start_gateway: StartGateway, start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = start_redis()
    monkeypatch.setattr(rate_limits, "_RETRY_SECONDS", 0.2)
    settings = OFF | {"rate_limit_per_key": "4/hour", "redis_url": redis.url, "rate_limit_redis_seconds": 0.3}
    gateway = await start_gateway({}, **settings)

    async def remaining() -> str:
        return (await ask(gateway)).headers["x-ratelimit-remaining-requests"]

    with structlog.testing.capture_logs() as log:

        async def logged_twice() -> bool:
            await remaining()
            return len(limiter_events(log)) == 2

        assert await remaining() == "3"
        freeze(redis.process, signal.SIGSTOP)
        assert [await remaining() for _ in range(4)] == ["3", "2", "1", "0"]
        assert (await ask(gateway)).status_code == 429
        freeze(redis.process, signal.SIGCONT)
        await until(logged_twice)
    assert limiter_events(log) == [
        "Redis is unavailable: until it is back, this gateway counts requests on its own",
        "Redis is available: requests are counted across all gateways again",
    ]


def limiter_events(log: list[structlog.typing.EventDict]) -> list[str]:
    return [each["event"] for each in log if "Redis" in each["event"]]


async def test_a_gateway_without_redis_still_limits(start_gateway: StartGateway) -> None:
    gateway = await start_gateway({}, **OFF | {"rate_limit_per_key": "2/hour", "redis_url": "redis://127.0.0.1:1/0"})
    assert [(await ask(gateway)).status_code for _ in range(3)] == [200, 200, 429]


async def test_an_untrusted_forwarded_address_is_ignored(
    start_gateway: StartGateway, behind_proxy: dict[str, object]
) -> None:
    settings = behind_proxy | {"trusted_proxies": "", "redis_url": "redis://127.0.0.1:1/0"}
    gateway = await start_gateway({}, **settings | {"rate_limit_failed_keys": "2/hour"})
    assert [(await ask(gateway, new_address(), **BAD)).status_code for _ in range(3)] == [401, 401, 429]
