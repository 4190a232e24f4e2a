"""A small OpenID provider for tests, with real discovery, keys, userinfo and introspection.

It prints its address. Tests use POST for what a person would do in a browser, and an operator in a
console: `/test/mint` issues tokens, `/test/revoke`, `/test/rotate` and `/test/person` change
things, and `/test/count` returns how often something was requested.
"""

import base64
import collections
import hashlib
import hmac
import json
import secrets
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CLIENTS = {"app": "secret-of-app", "other": "secret-of-other"}
PEOPLE = {}
TOKENS = {}
KEYS = {}
COUNT = collections.Counter()


def new_key(kid, kind="RS256"):
    if kind == "RS256":
        return {"kid": kid, "alg": kind, "key": rsa.generate_private_key(65537, 2048)}
    return {"kid": kid, "alg": kind, "key": ec.generate_private_key(ec.SECP256R1())}


def jwk(entry):
    kind = jwt.algorithms.RSAAlgorithm if entry["alg"] == "RS256" else jwt.algorithms.ECAlgorithm
    public = kind.to_jwk(entry["key"].public_key(), as_dict=True)
    return {**public, "kid": entry["kid"], "alg": entry["alg"], "use": "sig"}


def half_hash(token):
    digest = hashlib.sha256(token.encode()).digest()
    return encode(digest[:16])


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(claims, kid):
    """A forger's trick: signs with the public key, as if it were a shared secret."""
    public = KEYS["first"]["key"].public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "typ": "JWT", "kid": kid}
    text = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{encode(hmac.digest(secret, text.encode(), 'sha256'))}"


def mint(issuer, order):
    """Issues an ID token and an access token, with the oddities that the test asks for."""
    sub, audience = order["sub"], order.get("aud", "app")
    now, lifetime = int(time.time()), order.get("lifetime", 300)
    access_token = secrets.token_urlsafe(24)
    until = now + lifetime
    TOKENS[access_token] = {"sub": sub, "client_id": audience, "exp": until, "revoked": False}
    claims = {
        "iss": issuer,
        "sub": sub,
        "aud": audience,
        "iat": now - 600,
        "exp": until,
        "at_hash": half_hash(access_token),
        **PEOPLE.get(sub, {}),
        **order.get("claims", {}),
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    kid = order.get("kid", "first")
    if order.get("alg") == "none":
        id_token = jwt.encode(claims, None, algorithm="none", headers={"kid": kid})
    elif order.get("alg") == "HS256":
        id_token = forge(claims, kid)
    else:
        entry = new_key("forged") if order.get("forged") else KEYS[kid]
        id_token = jwt.encode(claims, entry["key"], entry["alg"], headers={"kid": kid})
    return {"id_token": id_token, "access_token": access_token}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        COUNT[self.path] += 1
        if self.path == "/.well-known/openid-configuration":
            return self.answer(200, self.document())
        if self.path == "/keys":
            return self.answer(200, {"keys": [jwk(entry) for entry in KEYS.values()]})
        if self.path == "/userinfo":
            token = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            if not is_good(token):
                return self.answer(401, {"error": "invalid_token"})
            return self.answer(200, {"sub": token["sub"], **PEOPLE.get(token["sub"], {})})
        return self.answer(404, {})

    def do_POST(self):
        COUNT[self.path] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/introspect":
            return self.introspect(parse_qs(body.decode()))
        order = json.loads(body or b"{}")
        if self.path == "/test/mint":
            return self.answer(200, mint(self.issuer(), order))
        if self.path == "/test/revoke":
            TOKENS[order["access_token"]]["revoked"] = True
        elif self.path == "/test/rotate":
            KEYS.clear()
            KEYS[order["kid"]] = new_key(order["kid"], order.get("alg", "RS256"))
        elif self.path == "/test/person":
            PEOPLE[order["sub"]] = order["claims"]
        elif self.path != "/test/count":
            return self.answer(404, {})
        return self.answer(200, dict(COUNT))

    def introspect(self, form):
        kind, _, pair = self.headers.get("Authorization", "").partition(" ")
        client, _, secret = base64.b64decode(pair or "").decode().partition(":")
        if kind != "Basic" or CLIENTS.get(unquote(client)) != unquote(secret):
            return self.answer(401, {"error": "invalid_client"})
        token = TOKENS.get(form["token"][0])
        if not is_good(token):
            return self.answer(200, {"active": False})
        known = {name: token[name] for name in ("sub", "client_id", "exp")}
        return self.answer(200, {"active": True, **known})

    def issuer(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def document(self):
        issuer = self.issuer()
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/keys",
            "userinfo_endpoint": f"{issuer}/userinfo",
            "introspection_endpoint": f"{issuer}/introspect",
        }

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def is_good(token):
    return token is not None and not token["revoked"] and token["exp"] > time.time()


if __name__ == "__main__":
    KEYS["first"] = new_key("first")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
