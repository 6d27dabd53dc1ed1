"""Who is admitted, header by header."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.errors import AccessError, HostRefusedError, OriginRefusedError, UnauthorizedError
from flux_mcp.principals import LOCAL
from flux_mcp.server.transports.guard import Admission, admission
from flux_mcp.server.transports.tokens import Tokens
from flux_mcp.settings.settings import Settings

ADA, OWNER = "a" * 24, "o" * 24
TOKENS = Tokens({ADA: "ada", OWNER: LOCAL})


def settings_with(**values: object) -> Settings:
    return Settings.model_validate(values)


def ask(judge: Admission, **headers: str | list[str]) -> str:
    return judge.principal(
        [
            (name.encode(), value.encode())
            for name, values in headers.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
    )


@pytest.fixture
def judge() -> Admission:
    return admission(settings_with(allowed_hosts=("Studio.local",)), TOKENS)


GOOD_HOSTS = [
    "127.0.0.1",
    "127.0.0.1:8421",
    "localhost",
    "LocalHost:80",
    "[::1]",
    "[::1]:8421",
    "studio.local",
    "studio.local:443",
]
BAD_HOSTS = [
    "",
    "evil.example",
    "evil.example:8421",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example#localhost",
    "localhost@evil.example",
    "localhost:",
    "localhost:port",
    "localhost:8421:8421",
    "::1",
    "[::1",
    "[::2]",
    "localhost/",
    " localhost",
    "localhost,evil.example",
    "127.1",
    "2130706433",
    "0.0.0.0",  # noqa: S104 - refused
    "l\u043ecalhost",  # with a letter that only looks like an o
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_names_of_ours_with_and_without_a_port(judge: Admission, host: str) -> None:
    assert ask(judge, host=host, authorization=f"Bearer {ADA}") == "ada"


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_every_other_name_is_refused(judge: Admission, host: str) -> None:
    with pytest.raises(HostRefusedError, match="allowed_hosts"):
        ask(judge, host=host, authorization=f"Bearer {ADA}")


def test_no_name_and_two_names_are_refused(judge: Admission) -> None:
    for hosts in ([], ["localhost", "localhost"], ["localhost", "evil.example"]):
        with pytest.raises(HostRefusedError):
            ask(judge, host=hosts, authorization=f"Bearer {ADA}")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:6274",
        "https://127.0.0.1:8421",
        "http://[::1]:8421",
        "http://studio.local",
        "https://app.example.org",
    ],
)
def test_pages_of_ours_may_call(origin: str) -> None:
    judge = admission(
        settings_with(
            allowed_hosts=("studio.local",), allowed_origins=("https://app.example.org",)
        ),
        TOKENS,
    )
    assert ask(judge, host="localhost", origin=origin, authorization=f"Bearer {ADA}") == "ada"


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "https://app.example.org",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "file://",
        "ftp://localhost",
        "chrome-extension://localhost",
        "localhost",
        "http://localhost/",
        "http://localhost:80/path",
        "http://evil.example http://localhost",
    ],
)
def test_every_other_page_is_refused(origin: str) -> None:
    judge = admission(settings_with(), TOKENS)
    with pytest.raises(OriginRefusedError, match="allowed_origins"):
        ask(judge, host="localhost", origin=origin, authorization=f"Bearer {ADA}")


def test_two_origins_are_refused(judge: Admission) -> None:
    both = ["http://localhost", "http://localhost"]
    with pytest.raises(OriginRefusedError):
        ask(judge, host="localhost", origin=both, authorization=f"Bearer {ADA}")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_says_who_it_is(judge: Admission, scheme: str) -> None:
    assert ask(judge, host="localhost", authorization=f"{scheme} {ADA}") == "ada"
    assert ask(judge, host="localhost", authorization=f"{scheme} {OWNER}") == LOCAL


BAD_AUTHORIZATIONS: list[str | list[str]] = [
    [],
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {ADA}x",
    f"Bearer {ADA[:-1]}",
    f"Bearer {ADA}, Bearer {ADA}",
    f"Basic {ADA}",
    ADA,
    f"Token {ADA}",
    [f"Bearer {ADA}", f"Bearer {ADA}"],
    "Bearer ada",
]


@pytest.mark.parametrize("value", BAD_AUTHORIZATIONS)
def test_every_other_token_is_refused(judge: Admission, value: str | list[str]) -> None:
    with pytest.raises(UnauthorizedError, match="Bearer TOKEN") as caught:
        ask(judge, host="localhost", authorization=value)
    assert ADA not in str(caught.value)


def test_neighbours_without_a_token_are_the_owner_only_where_that_is_set() -> None:
    judge = admission(settings_with(loopback_without_token=True), TOKENS)
    assert ask(judge, host="localhost") == LOCAL
    assert ask(judge, host="localhost", authorization=f"Bearer {ADA}") == "ada"
    with pytest.raises(UnauthorizedError):
        # Whoever shows a token means it: a wrong one is a mistake to be told of.
        ask(judge, host="localhost", authorization="Bearer wrong")
    with pytest.raises(HostRefusedError):
        ask(judge, host="evil.example")
    with pytest.raises(OriginRefusedError):
        ask(judge, host="localhost", origin="http://evil.example")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "studio.local"])  # noqa: S104 - refused
def test_without_a_token_nobody_listens_beyond_this_machine(host: str) -> None:
    with pytest.raises(ValueError, match="loopback_without_token is for"):
        settings_with(host=host, loopback_without_token=True)


def test_the_address_that_is_listened_on_is_a_name_of_ours() -> None:
    judge = admission(settings_with(host="192.168.1.4"), TOKENS)
    assert ask(judge, host="192.168.1.4:8421", authorization=f"Bearer {ADA}") == "ada"
    everywhere = admission(settings_with(host="0.0.0.0"), TOKENS)  # noqa: S104 - the case
    for host in ("0.0.0.0", "192.168.1.4"):  # noqa: S104 - the case
        with pytest.raises(HostRefusedError):
            ask(everywhere, host=host, authorization=f"Bearer {ADA}")


@given(st.binary(max_size=80), st.sampled_from([b"host", b"origin", b"authorization"]))
def test_any_bytes_are_refused_in_our_own_words(value: bytes, name: bytes) -> None:
    judge = admission(settings_with(), TOKENS)
    headers = {b"host": b"localhost", b"authorization": f"Bearer {ADA}".encode(), name: value}
    with suppress(AccessError):
        assert judge.principal(list(headers.items())) in ("ada", LOCAL)
