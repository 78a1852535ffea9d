"""Which URLs a request may name: what leads to what is near is refused before anything is recorded."""

import pytest

from dosvoces.deferred.guard import networks_of
from dosvoces.web.webhook_urls import MAX_URL, WebhookUrls
from tests.hostile_urls import HOSTILE, LITERAL

ANY = WebhookUrls()
SOME = WebhookUrls(hosts=("crm.example.com", "*.example.org"))
NEAR = WebhookUrls(networks=networks_of(["127.0.0.0/8"]))
NAMES = [
    *["localhost", "LOCALHOST", "localhost.", "x.localhost", "metadata", "metadata.google.internal", "printer.local"],
    *["crm", "nas.lan", "router.home"],
]


@pytest.mark.parametrize("url", LITERAL)
@pytest.mark.parametrize("scheme", ["http:", "https:"])
def test_what_needs_no_name_to_be_near_is_refused_at_once(url: str, scheme: str) -> None:
    assert ANY.problem(url.format(port=8443).replace("http:", scheme, 1)) is not None


@pytest.mark.parametrize("url", HOSTILE)
def test_a_list_of_hosts_lets_none_of_them_in(url: str) -> None:
    assert SOME.problem(url.format(port=8443).replace("http:", "https:", 1)) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_known_to_be_near_is_refused_at_once(name: str) -> None:
    assert ANY.problem(f"https://{name}/x") == ("not_allowed", "has a name that stands for no public address")


@pytest.mark.parametrize(
    "url",
    [
        *[
            "https://crm.example.com/x?y=1",
            "https://crm.example.com:8443/",
            "https://93.184.215.14/",
            "https://a.test.es/",
        ],
        *["https://[2606:4700:4700::1111]/", "https://xn--caf-dma.example/", "https://CRM.example.com."],
    ],
)
def test_what_may_be_named(url: str) -> None:
    assert ANY.problem(url) is None


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://crm.example.com/", "not_allowed"),
        ("http://93.184.215.14/", "not_allowed"),
        ("https://crm.example.com:22/", "not_allowed"),
        ("https://crm.example.com:0/", "format"),
        ("https://crm.example.com:99999/", "format"),
        ("https://me@crm.example.com/", "format"),
        ("https://crm.example.com/#x", "format"),
        ("crm.example.com", "format"),
        ("", "format"),
        ("https://crm.example.com/" + "x" * MAX_URL, "too_long"),
    ],
)
def test_what_may_not(url: str, code: str) -> None:
    problem = ANY.problem(url)
    assert problem is not None
    assert problem[0] == code


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *[("crm.example.com", True), ("CRM.Example.com", True), ("crm.example.com.", True), ("a.b.example.org", True)],
        *[
            ("x.crm.example.com", False),
            ("example.org", False),
            ("evilexample.org", False),
            ("example.org.evil", False),
        ],
    ],
)
def test_hosts_are_matched_by_whole_labels(host: str, allowed: bool) -> None:
    assert (SOME.problem(f"https://{host}/") is None) == allowed


def test_http_goes_to_an_allowed_network_alone() -> None:
    assert NEAR.problem("http://127.0.0.1:8000/x") is None
    assert NEAR.problem("http://10.0.0.1:8000/x") is not None
    assert NEAR.problem("http://erp:8000/x") is not None
    assert NEAR.problem("https://erp:8000/x") is None
