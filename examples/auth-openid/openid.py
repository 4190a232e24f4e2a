"""Checks tokens that an OpenID provider issued: ID tokens and access tokens. Knows no plugin.

An **ID token** is signed: its signature is checked with the provider's public keys (JWKS), then
its issuer, audience and expiry. An **access token** says nothing by itself, and one that was
issued to another app works at the userinfo endpoint as well as ours. So the provider is asked
which app it is for (introspection, RFC 7662), or an ID token has to accompany it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import jwt

# Only signatures with a private key: with a shared secret, anybody who can verify could sign.
ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]
HASHES = {"RS256": "sha256", "ES256": "sha256", "PS256": "sha256", "EdDSA": "sha512"}
TIMEOUT = 5.0
MAX_BYTES = 1024 * 1024
# Clocks differ a little.
LEEWAY = 30
DISCOVERY_SECONDS = 3600.0
# A token with an unknown key makes us look for new keys, but strangers do not set the pace. A key
# that the provider has withdrawn stays valid no longer than this.
KEYS_SECONDS = 10.0
MAX_KEYS_SECONDS = 600.0


class NotVouchedFor(Exception):
    """The tokens are not valid, or not meant for this app."""


class ProviderAway(Exception):
    """The provider cannot be asked; this does not mean that a token is bad."""


@dataclass
class OpenIdProvider:
    """A provider, by its address, and this app's account there."""

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.issuer = self.issuer.rstrip("/")
        _require_secure(self.issuer)
        self._opener = build_opener(_NoRedirects())
        self._lock = threading.Lock()
        self._document: dict[str, Any] = {}
        self._document_until = 0.0
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_until = 0.0
        self._next_look = 0.0
        self._failure = ""

    def verify(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """Returns what the provider says about the tokens' owner; `sub` is the permanent id.

        Raises `NotVouchedFor`, or `ProviderAway`.
        """
        id_token, access_token = _text(tokens, "id_token"), _text(tokens, "access_token")
        if id_token:
            claims = self._verify_id_token(id_token, tokens.get("nonce"))
            if access_token:
                _check_binding(id_token, claims, access_token)
                more = self._userinfo(access_token, claims["sub"])
                if "email" in more:
                    # `email_verified` belongs to the address next to it, and to no other.
                    claims.pop("email_verified", None)
                claims = {**claims, **more}
            return claims
        if access_token:
            return self._userinfo(access_token, self._introspect(access_token))
        raise NotVouchedFor("neither id_token nor access_token")

    # -- ID tokens -----------------------------------------------------------

    def _verify_id_token(self, token: str, nonce: Any) -> dict[str, Any]:
        try:
            key = self._key(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.client_id,
                issuer=self.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise NotVouchedFor(f"id_token: {error}") from None
        audience = claims["aud"]
        has_others = isinstance(audience, list) and len(audience) > 1
        if (has_others or "azp" in claims) and claims.get("azp") != self.client_id:
            raise NotVouchedFor("id_token: given to another app")
        if nonce is not None and claims.get("nonce") != nonce:
            raise NotVouchedFor("id_token: the nonce of another login")
        if not claims["sub"]:
            raise NotVouchedFor("id_token: nobody's")
        return claims

    def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        kid = header.get("kid") or ""
        keys = self._keys
        if time.monotonic() < self._keys_until and kid in keys:
            return keys[kid]
        # A token with a known key never waits for this.
        with self._lock:
            now = time.monotonic()
            if now >= self._next_look and (kid not in self._keys or now >= self._keys_until):
                self._look_for_keys()
            if self._failure:
                raise ProviderAway(self._failure)
            if kid not in self._keys:
                raise NotVouchedFor(f"id_token: the provider has no key {kid!r}")
            return self._keys[kid]

    def _look_for_keys(self) -> None:
        try:
            self._keys = self._load_keys()
            self._failure = ""
            self._keys_until = time.monotonic() + MAX_KEYS_SECONDS
        except ProviderAway as away:
            # Until the next look, this does not make anybody's token bad.
            self._failure = str(away)
        self._next_look = time.monotonic() + KEYS_SECONDS

    def _load_keys(self) -> dict[str, jwt.PyJWK]:
        try:
            keys = jwt.PyJWKSet.from_dict(self._get(self._endpoint("jwks_uri")))
        except jwt.PyJWTError as error:
            raise ProviderAway(f"no usable keys: {error}") from None
        return {key.key_id or "": key for key in keys.keys if key.public_key_use in (None, "sig")}

    # -- access tokens -------------------------------------------------------

    def _introspect(self, token: str) -> str:
        """Asks whether an access token is valid and for this app; returns its owner."""
        address = self._endpoint("introspection_endpoint", is_needed=False)
        if not address:
            raise NotVouchedFor("the provider cannot say which app the access token is for")
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        pair = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
        basic = base64.b64encode(pair.encode()).decode()
        answer = self._get(address, {"Authorization": f"Basic {basic}"}, form)
        if answer.get("active") is not True:
            raise NotVouchedFor("access_token: expired or revoked")
        audience = answer.get("aud", [])
        audience = [audience] if isinstance(audience, str) else audience
        if answer.get("client_id") != self.client_id and self.client_id not in audience:
            raise NotVouchedFor("access_token: given to another app")
        owner = answer.get("sub")
        if not isinstance(owner, str) or not owner:
            raise NotVouchedFor("access_token: nobody's")
        return owner

    def _userinfo(self, token: str, owner: str) -> dict[str, Any]:
        address = self._endpoint("userinfo_endpoint")
        claims = self._get(address, {"Authorization": f"Bearer {token}"}, is_refusal=True)
        if claims.get("sub") != owner:
            raise NotVouchedFor("access_token: somebody else's")
        return claims

    # -- the provider --------------------------------------------------------

    def _endpoint(self, name: str, is_needed: bool = True) -> str:
        if time.monotonic() >= self._document_until:
            document = self._get(f"{self.issuer}/.well-known/openid-configuration")
            if str(document.get("issuer")).rstrip("/") != self.issuer:
                raise ProviderAway(f"it calls itself {document.get('issuer')!r}")
            self._document = document
            self._document_until = time.monotonic() + DISCOVERY_SECONDS
        address = self._document.get(name)
        if isinstance(address, str):
            _require_secure(address)
            return address
        if is_needed:
            raise ProviderAway(f"it has no {name}")
        return ""

    def _get(
        self,
        address: str,
        headers: dict[str, str] | None = None,
        form: bytes | None = None,
        is_refusal: bool = False,
    ) -> dict[str, Any]:
        """Asks the provider for JSON. With `is_refusal`, 401 and 403 are about the token."""
        request = Request(address, form, {"Accept": "application/json", **(headers or {})})
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                text = response.read(MAX_BYTES + 1)
        except HTTPError as error:
            if is_refusal and error.code in (401, 403):
                raise NotVouchedFor("access_token: expired or revoked") from None
            raise ProviderAway(f"{address} answered {error.code}") from None
        except (OSError, ValueError) as error:
            raise ProviderAway(f"{address}: {error}") from None
        try:
            answer = json.loads(text) if len(text) <= MAX_BYTES else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ProviderAway(f"{address} did not answer with a JSON object")
        return answer


class _NoRedirects(HTTPRedirectHandler):
    """Makes tokens go to the configured address, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _check_binding(id_token: str, claims: dict[str, Any], access_token: str) -> None:
    """Checks that the access token was issued together with the ID token (`at_hash`)."""
    if "at_hash" not in claims:
        # Then userinfo's `sub` must match, which is checked anyway.
        return
    name = HASHES[jwt.get_unverified_header(id_token)["alg"]]
    digest = hashlib.new(name, access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if claims["at_hash"] != half:
        raise NotVouchedFor("access_token: not the one of this id_token")


def _text(tokens: dict[str, Any], name: str) -> str:
    value = tokens.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise NotVouchedFor(f"{name}: not a token")
    return value


def _require_secure(address: str) -> None:
    """Fails unless an address uses TLS or is on this machine, because tokens are sent there."""
    parts = urlsplit(address)
    is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise ProviderAway(f"{address} should begin with https://")
