"""Which token goes to which host, and to no other; addresses; and answers that are bounded."""

import json
import warnings

import httpx
import pytest
import torch

from advantageflow.config import ConfigError
from advantageflow.rewards import check_reward
from advantageflow.rewards.addresses import is_loopback, parse_address, server_secret, token_for
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.vlm import VLMJudge

IMAGES = torch.zeros(4, 3, 8, 8)


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch):
    for name in ("ADVANTAGEFLOW_TOKEN", "ADVANTAGEFLOW_VLM_URL", "ADVANTAGEFLOW_VLM_KEY"):
        monkeypatch.delenv(name, raising=False)


def server(answer):
    """A client whose server answers by `answer(request)`, and what it was sent."""
    seen = []

    def respond(request):
        seen.append(request)
        return answer(request)

    return httpx.Client(transport=httpx.MockTransport(respond)), seen


def scores(request):
    count = len(json.loads(request.content)["prompts"]) if request.method == "POST" else 0
    return httpx.Response(200, json={"scores": [0.5] * count})


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", True), ("127.0.0.2", True), ("localhost", True), ("LOCALHOST", True), ("::1", True),
        ("127.0.0.1.evil.com", False), ("localhost.evil", False), ("evil-localhost", False), ("0.0.0.0", False),
        ("127.1", False), ("10.0.0.1", False), ("", False), ("::", False),
    ],
)  # fmt: skip
def test_only_whole_names_are_this_machine(host, found):
    assert is_loopback(host) is found


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("HTTP://Scorer.LAN/score", "http://scorer.lan"),
        ("https://scorer.lan/v2/score/", "https://scorer.lan/v2"),
        ("http://[::1]:8000/score", "http://[::1]:8000"),
    ],
)
def test_an_address_may_end_in_a_slash_or_in_score(text, base):
    assert str(parse_address(text)).rstrip("/") == base
    client, seen = server(scores)
    RemoteReward(text, client=client)(IMAGES, ["a"] * 4)
    assert str(seen[-1].url) == f"{base}/score"


@pytest.mark.parametrize(
    "text",
    [
        "http://", "http:///score", "http://h:99999", "http://h:abc", "http://ex ample", "http://a?token=1",
        "http://a#b", "http://127.0.0.1\\@evil", "http://xn--/", "http://user:secretword@host:8000",
        "http://secretword@host", "http://user:p/secretword@host", "http://127.0.0.1@secretword.evil/",
        "http://" + "x" * 9999,
    ],
)  # fmt: skip
def test_any_other_address_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError) as caught:
        check_reward(text)
    assert "user:" not in str(caught.value)
    assert ":secretword" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("variables", "url", "token"),
    [
        ({"": "plain"}, "http://127.0.0.1:8000", "plain"),
        ({"": "plain"}, "http://[::1]:8000", "plain"),
        ({"": "cGxhaW4=="}, "http://localhost:8000", "cGxhaW4=="),
        ({"_SCORER_LAN": "mine", "": "plain"}, "https://scorer.lan", "mine"),
        ({"_SCORER_LAN_8000": "by port", "_SCORER_LAN": "mine"}, "https://scorer.lan:8000", "by port"),
        ({"_SCORER_LAN_8000": "by port"}, "https://scorer.lan:9000", None),
        ({"_SCORER_LAN_443": "by port"}, "https://scorer.lan", "by port"),
        ({"_10_0_0_7": "mine"}, "http://10.0.0.7:8000", "mine"),
        ({"_127_0_0_1": "mine", "": "plain"}, "http://127.0.0.1:8000", "mine"),
        ({"_SCORER_LAN": "", "": "plain"}, "https://scorer.lan", None),
        ({"": "scorer.lan=one, other:9000=two="}, "https://SCORER.lan:8000", "one"),
        ({"": "scorer.lan=one, other:9000=two="}, "https://other:9000", "two="),
        ({"": "scorer.lan=one,other:9000=two"}, "https://other:9001", None),
        ({"": "scorer.lan=one"}, "https://scorer.lan.evil", None),
        ({"": "scorer.lan=one"}, "http://127.0.0.1:8000", None),
        ({"": "[::1]:8000=one"}, "http://[::1]:8000", "one"),
        ({}, "https://scorer.lan", None),
        ({"": "secret\n"}, "http://127.0.0.1", "secret"),
    ],
)  # fmt: skip
def test_a_token_goes_to_the_host_it_was_given_for(variables, url, token, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"ADVANTAGEFLOW_TOKEN{name}", value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client, seen = server(scores)
        RemoteReward(url, client=client)(IMAGES, ["a"] * 4)
    assert {request.headers.get("authorization") for request in seen} == {f"Bearer {token}" if token else None}


@pytest.mark.parametrize(
    "url", ["http://scorer.lan:8000", "https://127.0.0.1.evil.com", "http://localhost.evil", "http://127.1"]
)
def test_a_token_for_no_host_leaves_this_machine_for_none(url, monkeypatch):
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN", "secretword")
    name = parse_address(url).host.upper().replace(".", "_")
    with pytest.raises(ConfigError, match=rf"set ADVANTAGEFLOW_TOKEN_{name}=\.\.\. to the token") as caught:
        RemoteReward(url)
    assert "secretword" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("line\nbreak", "no header can carry"),
        ("zerø", "no header can carry"),
        ("a.b=one,two", "mixes hosts and tokens"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(value, message, monkeypatch):
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN", value)
    with pytest.raises(ConfigError, match=message) as caught:
        token_for(parse_address("http://127.0.0.1"))
    assert value not in str(caught.value)


def test_a_servers_own_secret_names_no_host(monkeypatch):
    assert server_secret() is None
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN", "  ")
    assert server_secret() is None
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN", "scorer.lan=one")
    with pytest.raises(ConfigError, match="names hosts"):
        server_secret()


def test_a_token_over_plain_http_is_warned_of(monkeypatch):
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN_SCORER_LAN", "mine")
    with pytest.warns(UserWarning, match=r"the token for scorer\.lan is sent unencrypted; use https://"):
        RemoteReward("http://scorer.lan:8000")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RemoteReward("https://scorer.lan")
        RemoteReward("http://127.0.0.1:8000", token="mine")


def test_no_proxy_of_the_environment_stands_before_this_machine(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    proxied = httpx.Client(transport=None)
    for url, is_proxied in (("http://127.0.0.1:8000", False), ("http://[::1]:1", False), ("http://scorer.lan", True)):
        transport = RemoteReward(url).client._transport_for_url(httpx.URL(url))
        assert ("Proxy" in type(transport._pool).__name__) is is_proxied
    proxied.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_told_and_nothing_is_sent_after_it(status):
    client, seen = server(lambda request: httpx.Response(status, headers={"location": "http://evil/score"}))
    client.follow_redirects = True
    with pytest.raises(ValueError, match=r"redirects to 'http://evil/score', where nothing is sent"):
        RemoteReward("http://127.0.0.1:1", token="mine", client=client)(IMAGES, ["a"] * 4)
    assert {request.url.host for request in seen} == {"127.0.0.1"}


def test_of_a_long_answer_only_its_start_is_read():
    read = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self):
            for _ in range(3000):
                read.append(1)
                yield b"1" * 65536

    client, _ = server(lambda request: httpx.Response(200, stream=Endless()))
    with pytest.raises(ValueError, match="answered with more than 1048576 bytes"):
        RemoteReward("http://127.0.0.1:1", client=client)(IMAGES, ["a"] * 4)
    assert len(read) < 50


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(200, text="<html>hello</html>"), r"did not answer \{\"scores\": \[\.\.\.\]\} but <html>hello"),
        (httpx.Response(200, json={"scores": [1.0]}), "answered 1 scores for 4 images"),
        (httpx.Response(200, json={"scores": ["x"] * 4}), "did not answer"),
        (httpx.Response(200, content=b"\x1f\x8b", headers={"content-encoding": "br"}), "compressed form"),
        (httpx.Response(404, text="no such page"), "refused with status 404: no such page"),
        (httpx.Response(204), "refused with status 204"),
        (httpx.Response(403, text="go away"), "status 403: go away; a token is needed: set ADVANTAGEFLOW_TOKEN_HOST"),
    ],
)
def test_a_strange_answer_is_one_sentence(answer, message):
    client, _ = server(lambda request: answer)
    with pytest.raises(ValueError, match=message) as caught:
        RemoteReward("http://host", client=client, attempts=1)(IMAGES, ["a"] * 4)
    assert "\n" not in str(caught.value)


def test_a_server_that_knows_no_limits_is_asked_for_half_after_a_413():
    def small(request):
        answer = scores(request)
        return httpx.Response(413) if request.method == "GET" or answer.json()["scores"][1:] else answer

    client, _ = server(small)
    assert RemoteReward("http://host", client=client)(IMAGES, ["a"] * 4) == [0.5] * 4


def test_rows_without_columns_are_not_sent_since_other_servers_may_not_know_them():
    client, seen = server(scores)
    RemoteReward("http://host", client=client)(IMAGES, ["a"] * 4, [{}] * 4)
    assert b"metadata" not in seen[-1].content


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(401), "another token is needed: set ADVANTAGEFLOW_TOKEN_HOST"),
        (httpx.Response(500, text="no GPU"), "is not well: /health has status 500: no GPU"),
        (httpx.ConnectError("refused"), r"cannot be reached: ConnectError: refused; start it \(advantageflow serve"),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong"), "does not speak https; try http://"),
        (httpx.RemoteProtocolError("illegal status line: bytearray"), "does not speak http; try https://"),
    ],
    ids=str,
)
def test_a_server_that_is_not_well_is_told_by_its_health(answer, message):
    def respond(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ConfigError, match=message):
        RemoteReward("http://host", token="mine", client=server(respond)[0]).check_health()


def test_a_server_without_a_health_page_passes():
    RemoteReward("http://host", client=server(lambda request: httpx.Response(404))[0]).check_health()


def test_the_judges_key_goes_to_the_judges_address_alone(monkeypatch):
    monkeypatch.setenv("ADVANTAGEFLOW_VLM_URL", "https://judge.lan/v1")
    monkeypatch.setenv("ADVANTAGEFLOW_VLM_KEY", "mine")
    monkeypatch.setenv("ADVANTAGEFLOW_TOKEN", "plain")
    told = {"choices": [{"message": {"content": "Final Score: 5"}}]}
    for url, key in (("", "Bearer mine"), ("https://elsewhere/v1", None)):
        client, seen = server(lambda request: httpx.Response(200, json=told))
        VLMJudge(url, client=client)(IMAGES[:1], ["a"])
        assert seen[0].headers.get("authorization") == key
    client, _ = server(lambda request: httpx.Response(503, text="busy"))
    with pytest.raises(ValueError, match="no chat's answer but status 503: 'busy'"):
        VLMJudge(client=client)(IMAGES[:1], ["a"])
