"""Network policies allow exactly the connections drawn in docs/deploy/security.md."""

import re

import pytest

from tests.chart.chart import ROOT, render
from tests.chart.combinations import SWITCHES, merge
from tests.chart.connections import INTERNET, Connection, allowed_by, connections

MODELS = {"speech-encoder": 50051, "vision-encoder": 50052, "language-model": 50053, "speech-synthesizer": 50054}
METRICS = {"speech-encoder": 9151, "vision-encoder": 9152, "language-model": 9153, "speech-synthesizer": 9154}
WORKERS = ("worker-plan", "worker-clips", "worker-answers")
PROCESSES = ("gateway", *WORKERS, "beat", *MODELS)

DRAWN: set[Connection] = {
    *(("gateway", model, port) for model, port in MODELS.items()),
    ("worker-clips", "speech-encoder", 50051),
    ("worker-answers", "language-model", 50053),
    *((each, "redis", 6379) for each in ("gateway", *WORKERS, "beat")),
    *((each, "object-store", 9000) for each in ("gateway", *WORKERS)),
    ("test", "gateway", 8000),
}
DNS = {(each, "dns", 53) for each in (*PROCESSES, "test")}
SCRAPES = {
    *(("prometheus", model, port) for model, port in METRICS.items()),
    *(("prometheus", each, 9155) for each in (*WORKERS, "beat")),
    ("prometheus", "gateway", 8000),
}


def test_exactly_the_drawn_connections_are_allowed() -> None:
    weights = {(model, INTERNET, 443) for model in MODELS}
    callbacks = {("worker-plan", INTERNET, 443)}
    closed = render({"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]}})

    found = connections(closed)

    assert found == DRAWN | DNS | SCRAPES | weights | callbacks | {("ingress", "gateway", 8000)}


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_neither_side_allows_more_than_the_drawn_connections(direction: str) -> None:
    assert allowed_by(direction, render(SWITCHES["network"]["named"])) == DRAWN


def test_without_configured_clients_anyone_reaches_the_gateway_and_nothing_else_changes() -> None:
    closed = render({"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]}})

    more = connections(render()) - connections(closed)

    assert {connection[1:] for connection in more} == {("gateway", 8000)}
    assert not {connection[0] for connection in more} & set(PROCESSES)


def test_weights_from_the_object_store_need_no_internet() -> None:
    found = connections(render({"weights": {"source": "objectStore"}, "adapters": ["legal"]}))

    assert {connection for connection in found if connection[0] in MODELS and connection[1] != "dns"} == {
        (model, "object-store", 9000) for model in MODELS
    }


def test_weights_from_a_volume_need_no_egress() -> None:
    found = connections(render(SWITCHES["weights"]["nano-volume"]))

    assert {connection for connection in found if connection[0] in MODELS} == {(model, "dns", 53) for model in MODELS}


def test_external_stores_are_reachable_on_their_ports_only() -> None:
    values = merge(SWITCHES["redis"]["tls"], SWITCHES["store"]["external"], SWITCHES["network"]["named"])

    found = {connection for connection in connections(render(values)) if connection[1] == "private network"}

    assert found == {(each, "private network", 6380) for each in ("gateway", *WORKERS, "beat")} | {
        (each, "private network", 443) for each in ("gateway", *WORKERS)
    }


def test_keda_reaches_redis_only_if_it_reads_queue_lengths() -> None:
    def by_keda(setting: str) -> set[Connection]:
        named = SWITCHES["network"]["named"]
        return {
            connection
            for connection in connections(render(merge(SWITCHES["workers"][setting], named)))
            if connection[0] == "keda"
        }

    assert by_keda("redis") == {("keda", "redis", 6379)}
    assert by_keda("prometheus") == by_keda("hpa") == set()


def test_direct_uploads_reach_the_bundled_store() -> None:
    named = SWITCHES["network"]["named"]

    found = connections(render(merge(SWITCHES["store"]["public"], named))) - connections(render(named))

    assert found == {("ingress", "object-store", 9000)}


def test_plain_http_is_allowed_only_if_callbacks_may_use_it() -> None:
    allowed = render({"sharedSettings": {"LYRA_OUTBOUND_ALLOW_HTTP": True}})

    assert connections(allowed) - connections(render()) == {("worker-plan", INTERNET, 80)}


def test_training_has_no_connections_but_dns() -> None:
    values = merge(SWITCHES["training"]["on"], SWITCHES["weights"]["nano-volume"], SWITCHES["network"]["named"])
    found = connections(render(values))

    assert {connection for connection in found if "training" in connection} == {("training", "dns", 53)}


def test_the_page_draws_these_connections() -> None:
    page = (ROOT / "docs/deploy/security.md").read_text()
    drawn = re.findall(r"^ *([a-z-]+) -- (\d+) --> ([a-z-]+)$", page, re.M)

    assert {(sender, receiver, int(port)) for sender, port, receiver in drawn} == DRAWN
