"""Who has no key gets nothing; without keys, a local server answers to local names alone."""

from __future__ import annotations

from time import time

import pytest

from twoway.cli.serve import host_names
from twoway.errors import UsageError
from twoway.server.config import ServeConfig
from twoway.server.service import KEYS_VARIABLE, LOCAL, Access, read_keys

KEY, OTHER = "k" * 16, "abcdefgh-01234567"


def test_every_route_with_content_wants_a_key(serve):
    client = serve(access=Access.of((KEY, OTHER)))
    known = set()
    assert client.get("/openapi.json").status_code == 401
    for path, methods in client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()["paths"].items():
        for method in methods:
            known.add(path)
            status = client.request(method, path.replace("{name}", "x")).status_code
            assert status == (200 if path in ("/healthz", "/readyz") else 401), path
    assert {"/v1/embeddings", "/v1/search", "/v1/index", "/metrics", "/healthz"} <= known
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer k\u00e4se"])
def test_a_wrong_key_is_refused(serve, given):
    client = serve(access=Access.of((KEY,)))
    answer = client.get("/v1/models", headers={"Authorization": given.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_each_key_opens(serve):
    client = serve(access=Access.of((KEY, OTHER)))
    for key in (KEY, OTHER):
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_signed_address_opens_itself_alone_and_for_some_hours(serve, monkeypatch):
    access = Access.of((KEY,))
    client, signed = serve(access=access), access.sign("/v1/models")
    assert client.get(signed).status_code == 200
    _, _, query = signed.partition("?")
    later = query.replace("until=", "until=9")
    for wrong in (
        f"/v1/index?{query}",
        f"/v1/models?{later}",
        f"/v1/models?{query}0",
        Access.of((KEY,)).sign("/v1/models"),
        "/v1/models?until=1",
    ):
        assert client.get(wrong).status_code == 401, wrong
    # The file of the item `a` has the address of the item `a/media`, which could be deleted there.
    assert client.delete(access.sign("/v1/index/items/a/media")).status_code == 401
    monkeypatch.setattr("twoway.server.service.time.time", lambda: time() + 7 * 3600)
    assert client.get(signed).status_code == 401
    assert Access().sign("/v1/models") == "/v1/models"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[::1", ""])
def test_a_local_server_answers_to_local_names_alone(serve, host):
    client = serve(access=Access.of(hosts=LOCAL))
    assert client.get("/v1/models", headers={"Host": host}).status_code == 403
    for good in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/v1/models", headers={"Host": good}).status_code == 200


def test_a_host_may_be_named_in_any_letters(serve):
    client = serve(access=Access.of(hosts=("Johns-Mac.local",)))
    for host in ("johns-mac.local:8000", "Johns-Mac.local"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "at", "allowed", "keyed", "names"),
    [
        ("my-machine", "127.0.1.1", (), False, {*LOCAL, "my-machine", "127.0.1.1"}),  # as Debian names a machine to itself
        ("my-machine", "127.0.1.1", ("other",), True, {*LOCAL, "my-machine", "127.0.1.1", "other"}),
        ("127.0.0.1", "127.0.0.1", (), True, set()),
        ("0.0.0.0", "0.0.0.0", (), False, set()),
        ("0.0.0.0", "0.0.0.0", ("other",), False, {*LOCAL, "other"}),
    ],
)
def test_a_local_server_answers_to_the_name_that_it_was_given(host, at, allowed, keyed, names):
    class Taken:
        def getsockname(self):
            return at, 8000

    assert set(host_names(ServeConfig(host=host, allow_host=allowed), Taken(), keyed=keyed)) == names


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    (tmp_path / "keys").write_text(f"# ours\n{KEY}\n\n{OTHER}  \n")
    assert read_keys(tmp_path / "keys", {}) == (KEY, OTHER)
    assert read_keys(None, {KEYS_VARIABLE: f"{OTHER}, {KEY}"}) == (OTHER, KEY)
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize("written", ["", "# none\n", "short\n", "with a space in between\n"])
def test_a_file_without_keys_or_with_weak_ones_is_refused(tmp_path, written):
    (tmp_path / "keys").write_text(written)
    with pytest.raises(UsageError):
        read_keys(tmp_path / "keys", {})
    with pytest.raises(UsageError):
        read_keys(tmp_path / "absent", {})
