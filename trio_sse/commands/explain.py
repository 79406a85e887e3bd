"""`trio-sse explain`: why did this user not get it?"""

from __future__ import annotations

import json
import ssl
import sys
from typing import Any, NoReturn

import click
import httpx

from trio_sse import logs, options
from trio_sse.commands.explanation import lines
from trio_sse.server.listening import Url, urls
from trio_sse.settings import Settings
from trio_sse.version import __version__

ANSWER_SECONDS = 15.0


@click.command()
@click.argument("user")
@click.argument("id", required=False)
@click.option(
    "--url",
    metavar="URL",
    help="where the service is [default: by SSE_HOST, SSE_PORT and SSE_ROOT_PATH, http://127.0.0.1:8085]",
)
@click.option("--json", "as_json", is_flag=True, help="the answer of GET /explain as it came")
@options.for_settings(lambda name: name == "admin_token")
def explain(user: str, id: str | None, url: str | None, as_json: bool, **given: str | None) -> None:  # noqa: A002
    """Say what became of the latest messages for USER, or of the one with this event ID.

    Asks a running service, which asks all its workers and nodes. SSE_ADMIN_TOKEN (or --admin-token-file) is
    that of the service.

    Exit code 0 if a stream of the user got it, or has it waiting; without ID, if the user has a stream. 3 if
    not. 1 if there is no answer.
    """
    settings = options.read(given)
    if settings.admin_token is None:
        options.fail(
            "SSE_ADMIN_TOKEN is not set: it is that of the service, and without one there is no answer"
        )
    answer = _ask(settings, url, {"user_id": user, **({} if id is None else {"id": id})})
    if as_json:
        click.echo(logs.escaped_json(json.dumps(answer)))
    else:
        for line in lines(answer):
            click.echo(logs.escaped(line))
    sys.exit(0 if answer["story"]["verdict"]["code"] in _WELL else 3)


_WELL = ("ok", "taken", "waited", "replayed", "waiting", "catching_up")


def _ask(settings: Settings, url: str | None, query: dict[str, str]) -> Any:
    assert settings.admin_token is not None
    unix = None
    if url is None:
        way = next(iter(urls(settings)), Url(f"http://127.0.0.1:{settings.port}"))
        url, unix = way.url + settings.root_path, way.unix
    verify = ssl.create_default_context()
    transport = httpx.HTTPTransport(verify=verify, uds=unix) if unix else None
    token = settings.admin_token.get_secret_value()
    headers = {"authorization": f"Bearer {token}", "user-agent": f"trio_sse/{__version__}"}
    where = unix or url
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}")
        if address.scheme not in ("http", "https") or not address.host:
            raise click.UsageError("--url: not an address such as http://127.0.0.1:8085")
        with httpx.Client(
            headers=headers, timeout=ANSWER_SECONDS, transport=transport, verify=verify
        ) as client:
            path = f"{address.path.rstrip('/')}/explain"
            response = client.get(address.copy_with(path=path, query=None), params=query)
    except (httpx.InvalidURL, UnicodeError):
        raise click.UsageError("--url: not an address such as http://127.0.0.1:8085") from None
    except httpx.HTTPError as error:
        options.fail(
            logs.escaped(f"{where}: {str(error) or type(error).__name__} (--url, SSE_HOST, SSE_PORT)")
        )
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.status_code != httpx.codes.OK or not isinstance(answer, dict) or "story" not in answer:
        _refused(where, response, answer)
    return answer


def _refused(where: str, response: httpx.Response, answer: Any) -> NoReturn:
    if response.status_code == httpx.codes.NOT_FOUND:
        options.fail(logs.escaped(f"{where}: there is no GET /explain: SSE_ADMIN_TOKEN is not set there"))
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        detail = "another SSE_ADMIN_TOKEN counts there"
    options.fail(logs.escaped(f"{where}: {response.status_code} {detail or response.reason_phrase}"))
