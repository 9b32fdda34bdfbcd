"""The API from other hosts and pages: keys, host names and security headers."""

from dataclasses import replace

from api_client import BASE, SETTINGS, error_code
from starlette.testclient import TestClient


def test_the_key_protects_the_api_but_not_the_health_checks(build_api):
    app, _ = build_api(api_key="secret")
    with TestClient(app, BASE) as client:
        for path in ("/v1/model", "/metrics"):
            assert client.get(path).status_code == 401
            for sent, status in (
                ("Bearer wrong", 401),
                ("Basic secret", 401),
                ("Bearer secret", 200),
                ("bearer secret", 200),
            ):
                assert client.get(path, headers={"authorization": sent}).status_code == status
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_server_without_a_key_is_not_reached_by_other_host_names(build_api):
    """Protection against DNS rebinding."""
    for api_key, status in ((None, 421), ("secret", 200)):
        app, _ = build_api(api_key=api_key)
        for host, expected in (("rebound.example", status), ("127.0.0.1:8000", 200), ("[::1]:8000", 200)):
            reply = TestClient(app, f"http://{host}").get("/healthz")
            assert reply.status_code == expected
        if api_key is None:
            assert error_code(TestClient(app, "http://rebound.example").get("/healthz")) == "unknown_host"


def test_a_key_may_have_any_characters(build_api):
    client = TestClient(build_api(api_key="schlüssel")[0], BASE)
    for key, status in (("schlüssel", 200), ("schlussel", 401), ("", 401)):
        assert client.get("/v1/model", headers={"authorization": f"Bearer {key}".encode()}).status_code == status


def test_every_reply_has_security_headers(client):
    for reply in (client.get("/healthz"), client.get("/nothing"), client.post("/x", content=b"x" * 2_000_001)):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_only_the_configured_origin_may_embed_the_page(client, build_api):
    assert client.get("/healthz").headers["content-security-policy"].endswith("frame-ancestors 'self'")
    other = TestClient(build_api(replace(SETTINGS, embed_in="https://huggingface.co"))[0], BASE)
    policy = other.get("/healthz").headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co")
