"""Evaluators inherit no credential, and the identity that needed one has it still."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from azure.identity.aio import ClientSecretCredential, EnvironmentCredential

from score.environment import IDENTITY_SECRETS, forget_credentials
from shared.azure_account import own_identity

HOST = "mystorage.blob.core.windows.net"
SCOPE = "https://storage.azure.com/.default"
SECRET = "a-secret-of-the-identity"
GONE = (
    *IDENTITY_SECRETS,
    "BLINDSCORE_CONNECTION_STRING",
    "BLINDSCORE_TOKENS",
    "BLINDSCORE_ENDPOINT_TOKEN",
    "BLINDSCORE_PASSPHRASE",
    "BLINDSCORE_NEW_PASSPHRASE",
    "APPSETTING_BLINDSCORE_TOKENS",
    "APPSETTING_AZURE_CLIENT_SECRET",
)
KEPT = {"PATH": "/bin", "AZURE_CLIENT_ID": "client", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of the test's own."""
    own: dict[str, str] = dict(KEPT)
    monkeypatch.setattr(os, "environ", own)
    return own


@pytest.fixture
async def identity_port() -> AsyncIterator[int]:
    """A managed identity as Azure App Service has it: it gives a token to who knows the header."""

    async def give(request: web.Request) -> web.Response:
        if request.headers.get("X-IDENTITY-HEADER") != SECRET:
            return web.Response(status=401)
        return web.json_response(
            {
                "access_token": "token",
                "expires_on": "4000000000",
                "resource": "any",
                "token_type": "Bearer",
            }
        )

    app = web.Application()
    app.router.add_get("/token", give)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def test_credentials_go_and_the_rest_stays(environment: dict[str, str]) -> None:
    environment.update(dict.fromkeys(GONE, SECRET))
    forget_credentials()
    assert SECRET not in environment.values()
    assert environment.keys() >= KEPT.keys()


async def test_a_managed_identity_works_on(environment: dict[str, str], identity_port: int) -> None:
    environment["IDENTITY_ENDPOINT"] = f"http://127.0.0.1:{identity_port}/token"
    environment["IDENTITY_HEADER"] = SECRET
    environment["AZURE_TOKEN_CREDENTIALS"] = "ManagedIdentityCredential"
    async with own_identity(HOST) as identity:
        forget_credentials()
        assert SECRET not in environment.values()
        assert (await identity.get_token(SCOPE)).token == "token"


async def test_a_service_principal_keeps_its_secret_to_itself(
    environment: dict[str, str],
) -> None:
    environment["AZURE_TOKEN_CREDENTIALS"] = "EnvironmentCredential"
    environment["AZURE_TENANT_ID"] = "tenant"
    environment["AZURE_CLIENT_SECRET"] = SECRET
    async with own_identity(HOST) as identity:
        forget_credentials()
        assert SECRET not in environment.values()
        (only,) = identity.credentials
        assert isinstance(only, EnvironmentCredential)
        assert isinstance(only._credential, ClientSecretCredential)
        assert only._credential._secret == SECRET
