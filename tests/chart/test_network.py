"""Network policies let exactly the arrows of docs/deploy/security.md through."""

import re

import pytest

from tests.chart.arrows import INTERNET, Arrow, arrows, half_arrows
from tests.chart.chart import ROOT, render
from tests.chart.combinations import SWITCHES, merge

MODELS = {"speech-encoder": 50051, "vision-encoder": 50052, "language-model": 50053, "speech-synthesizer": 50054}
METRICS = {"speech-encoder": 9151, "vision-encoder": 9152, "language-model": 9153, "speech-synthesizer": 9154}
WORKERS = ("worker-plan", "worker-clips", "worker-answers")
SPEAKERS = ("gateway", *WORKERS, "beat", *MODELS)

DRAWN: set[Arrow] = {
    *(("gateway", model, port) for model, port in MODELS.items()),
    ("worker-clips", "speech-encoder", 50051),
    ("worker-answers", "language-model", 50053),
    *((each, "redis", 6379) for each in ("gateway", *WORKERS, "beat")),
    *((each, "object-store", 9000) for each in ("gateway", *WORKERS)),
    ("test", "gateway", 8000),
}
DNS = {(each, "dns", 53) for each in (*SPEAKERS, "test")}
SCRAPES = {
    *(("prometheus", model, port) for model, port in METRICS.items()),
    *(("prometheus", each, 9155) for each in (*WORKERS, "beat")),
    ("prometheus", "gateway", 8000),
}


def test_exactly_the_drawn_arrows_are_let_through() -> None:
    weights = {(model, INTERNET, 443) for model in MODELS}
    callbacks = {("worker-plan", INTERNET, 443)}
    closed = render({"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]}})

    found = arrows(closed)

    assert found == DRAWN | DNS | SCRAPES | weights | callbacks | {("ingress", "gateway", 8000)}


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_neither_side_allows_more_than_the_drawn_arrows(direction: str) -> None:
    assert half_arrows(render(SWITCHES["network"]["named"]), direction) == DRAWN


def test_without_named_clients_everybody_reaches_the_gateway_and_nothing_else_changes() -> None:
    closed = render({"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]}})

    more = arrows(render()) - arrows(closed)

    assert {arrow[1:] for arrow in more} == {("gateway", 8000)}
    assert not {arrow[0] for arrow in more} & set(SPEAKERS)


def test_weights_from_the_object_store_need_no_way_to_the_internet() -> None:
    found = arrows(render({"weights": {"source": "objectStore"}, "adapters": ["legal"]}))

    assert {arrow for arrow in found if arrow[0] in MODELS and arrow[1] != "dns"} == {
        (model, "object-store", 9000) for model in MODELS
    }


def test_weights_from_a_volume_need_no_way_out_at_all() -> None:
    found = arrows(render(SWITCHES["weights"]["nano-volume"]))

    assert {arrow for arrow in found if arrow[0] in MODELS} == {(model, "dns", 53) for model in MODELS}


def test_external_stores_are_reached_on_their_ports_alone() -> None:
    values = merge(SWITCHES["redis"]["tls"], SWITCHES["store"]["external"], SWITCHES["network"]["named"])

    found = {arrow for arrow in arrows(render(values)) if arrow[1] == "private network"}

    assert found == {(each, "private network", 6380) for each in ("gateway", *WORKERS, "beat")} | {
        (each, "private network", 443) for each in ("gateway", *WORKERS)
    }


def test_keda_reaches_redis_only_where_it_counts_there() -> None:
    def by_keda(setting: str) -> set[Arrow]:
        named = SWITCHES["network"]["named"]
        return {arrow for arrow in arrows(render(merge(SWITCHES["workers"][setting], named))) if arrow[0] == "keda"}

    assert by_keda("redis") == {("keda", "redis", 6379)}
    assert by_keda("prometheus") == by_keda("hpa") == set()


def test_uploads_past_the_gateway_reach_the_bundled_store() -> None:
    named = SWITCHES["network"]["named"]

    found = arrows(render(merge(SWITCHES["store"]["public"], named))) - arrows(render(named))

    assert found == {("ingress", "object-store", 9000)}


def test_plain_http_goes_out_only_where_callbacks_may_use_it() -> None:
    allowed = render({"sharedSettings": {"LYRA_OUTBOUND_ALLOW_HTTP": True}})

    assert arrows(allowed) - arrows(render()) == {("worker-plan", INTERNET, 80)}


def test_training_reaches_nobody_and_is_reached_by_nobody() -> None:
    values = merge(SWITCHES["training"]["on"], SWITCHES["weights"]["nano-volume"], SWITCHES["network"]["named"])
    found = arrows(render(values))

    assert {arrow for arrow in found if "training" in arrow} == {("training", "dns", 53)}


def test_the_page_draws_these_arrows() -> None:
    page = (ROOT / "docs/deploy/security.md").read_text()
    drawn = re.findall(r"^ *([a-z-]+) -- (\d+) --> ([a-z-]+)$", page, re.M)

    assert {(sender, receiver, int(port)) for sender, port, receiver in drawn} == DRAWN
