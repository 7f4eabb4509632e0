"""Servers' addresses: which are well formed, which are this machine, which token belongs to which, and bounded talk."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import httpx

from advantageflow.errors import ConfigError, cut, shown

VARIABLE = "ADVANTAGEFLOW_TOKEN"
MAX_ANSWER = 2**20  # bytes


def parse_address(text: str) -> httpx.URL:
    """The base address of a server; a slash or `/score` at its end is left out.

    Raises:
        ConfigError: it is no http:// or https:// address, or holds a user, a password, a query or a fragment.
    """
    try:
        url = httpx.URL(text.strip())
        well_formed = re.fullmatch(r"[\w.:-]{1,253}", url.host) and 0 < (url.port or 80) < 65536 and "\\" not in text
    except (httpx.InvalidURL, ValueError):
        url, well_formed = httpx.URL(), None
    if url.userinfo or "@" in text:
        raise ConfigError(f"the address of the server {shown(url.host)} holds a user or password; {_how(url)}")
    if not well_formed or url.scheme not in ("http", "https"):
        raise ConfigError(f"{shown(text)} is no address of a server; write one as http://127.0.0.1:8000")
    if url.query or url.fragment:
        raise ConfigError(f"the address of the server {shown(url.host)} holds a query or fragment; leave it out")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/score").rstrip("/"))


def is_loopback(host: str) -> bool:
    """Whether a host's name or number can only be this machine: by its whole name, never by a part of it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def variable(url: httpx.URL) -> str:
    """The environment's variable that holds the token of this host alone."""
    return f"{VARIABLE}_{_capitals(url.host)}"


def token_for(url: httpx.URL) -> str | None:
    """The token that the environment gives to this host: the first of

        ADVANTAGEFLOW_TOKEN_HOST_PORT and ADVANTAGEFLOW_TOKEN_HOST (capitals; all else becomes _),
        ADVANTAGEFLOW_TOKEN="host=token,host:port=token",
        ADVANTAGEFLOW_TOKEN alone, on this machine.

    Raises:
        ConfigError: a token is set, but for no host, and this one is another machine; or it cannot be sent.
    """
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    for name in (f"{variable(url)}_{port}", variable(url)):
        if name in os.environ:
            return sendable(os.environ[name], name)
    plain, by_host = _read_variable()
    for host in (f"{url.host}:{port}".lower(), f"[{url.host}]:{port}".lower(), url.host.lower()):
        if host in by_host:
            return sendable(by_host[host], VARIABLE)
    if not plain or is_loopback(url.host):
        return sendable(plain, VARIABLE)
    raise ConfigError(
        f"{VARIABLE} does not say that {shown(url.host)} may have it; set {variable(url)}=... to the token of that "
        f"server, or to nothing if it wants none"
    )


def server_secret() -> str | None:
    """What a server of ours asks its clients for: ADVANTAGEFLOW_TOKEN without hosts.

    Raises:
        ConfigError: it names hosts, or cannot be sent.
    """
    plain, by_host = _read_variable()
    if by_host:
        raise ConfigError(
            f"{VARIABLE} names hosts, {shown(list(by_host))}, so it is for clients; give the server one secret"
        )
    return sendable(plain, VARIABLE)


def sendable(token: str, name: str) -> str | None:
    """A token without white space around it, or None.

    Raises:
        ConfigError: a header cannot carry it; the message has the name of the variable alone.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{name} holds characters that no header can carry; use letters, digits and punctuation")
    return token or None


def open_client(url: httpx.URL, token: str | None, timeout: float) -> httpx.Client:
    """A client for one host: no proxy of the environment stands before this machine; redirects are not followed."""
    if token and url.scheme == "http" and not is_loopback(url.host):
        warnings.warn(f"the token for {url.host} is sent unencrypted; use https://, or a tunnel", stacklevel=3)
    return httpx.Client(timeout=timeout, trust_env=not is_loopback(url.host), follow_redirects=False)


def ask(
    client: httpx.Client,
    url: str,
    *,
    body: str | bytes | None = None,
    token: str | None = None,
    timeout: float = 120.0,
    most: int = MAX_ANSWER,
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of an answer: of a GET, or with a body of a POST of JSON.

    Args:
        timeout: seconds until the answer is whole.
        most: bytes of an answer that are read.

    Raises:
        ValueError: the answer is larger, is a redirect, or the two do not speak the same protocol.
        httpx.TransportError: there is no answer, which may change.
    """
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    deadline = time.monotonic() + timeout
    arguments: dict[str, Any] = {"content": body, "headers": headers, "follow_redirects": False, "timeout": timeout}
    try:
        with client.stream("GET" if body is None else "POST", url, **arguments) as response:
            answer = b""
            if response.is_redirect:
                where = response.headers.get("location", "")
                raise ValueError(
                    f"{cut(url)} redirects to {shown(where)}, where nothing is sent; name the address itself"
                )
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ValueError(f"{cut(url)} answered in a compressed form that was not asked for")
            for chunk in response.iter_bytes():
                answer += chunk
                if len(answer) > most:
                    raise ValueError(f"{cut(url)} answered with more than {most} bytes, which no reward does")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer took longer than {timeout:g} seconds")
            return response.status_code, response.headers, answer
    except httpx.TransportError as error:
        told = str(error)
        if "SSL" in told and ("WRONG_VERSION" in told or "record layer" in told or "UNKNOWN_PROTOCOL" in told):
            raise ValueError(f"{cut(url)} does not speak https; try http://") from error
        if "illegal status line" in told:
            raise ValueError(f"{cut(url)} does not speak http; try https://, or another port") from error
        if "CERTIFICATE_VERIFY" in told:
            raise ValueError(f"{cut(url)} has a certificate that is not trusted here: {cut(told)}") from error
        raise


def _read_variable() -> tuple[str, dict[str, str]]:
    """ADVANTAGEFLOW_TOKEN: a secret alone, or the tokens by host. A secret may end in the =s of base64."""
    value = os.environ.get(VARIABLE, "").strip()
    pairs = [re.fullmatch(r"([\w.:\[\]-]+)=(.*[^=].*)", part.strip()) for part in value.split(",") if part.strip()]
    if not pairs or not all(pairs):
        if any(pairs):
            raise ConfigError(f"{VARIABLE} mixes hosts and tokens; write it as host=token,host2=token2")
        return value, {}
    return "", {pair[1].lower(): pair[2] for pair in pairs if pair}


def _capitals(host: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", host.upper())


def _how(url: httpx.URL) -> str:
    return f"leave it out and set {variable(url)}=..." if url.host else "leave it out"
