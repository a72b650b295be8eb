"""Requests made from an OpenAPI document and spoiled, as bytes: in values, in JSON and in headers.

Schemathesis sends well-formed JSON alone; here half of the requests break the document, their JSON
or HTTP's own rules. The same seed makes the same requests.
"""

from __future__ import annotations

import json
import random
import string
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = ["HostileRequest", "HostileRequests"]

Json = Mapping[str, Any]
METHODS = ("get", "post", "put", "delete", "patch", "head", "options")
TEXTS = (
    "",
    "\0",
    "\u202e\u009b31m",
    "\ud800",
    "é" * 300,
    "a" * 5_000,
    "../../etc/passwd",
    "%2e%2e%2f",
    "*",
    "default/1",
    "{7*7}${{x}}",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "NaN",
    "\r\nX-Injected: 1",
    "\uff41\u0301",
    "nul",
    "-1",
    "null",
)
NUMBERS = (0, -0.0, -1, 1, 0.5, 2**31, 2**53 + 1, -(2**63), 2**64, 1e39, 1e308, 5e-324, 10**400)
ODD_VALUES = (None, True, False, [], {}, [[]], "", 0, "1", [None], {"": {}}, [1, "a", None])
# replaced in the text: a JSON library does not write these
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "-0", "01", "1.", "0x10", "9" * 5_000, '"\\ud800"')
MARK = "\ue000raw\ue000"
MEDIA = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/x-tar",
    "application/octet-stream",
    "",
    "a/b/c;;;=",
)
HEADERS = {
    "X-Request-ID": (*TEXTS[:1], "x" * 500, "a b", "{}", "\x80\xff"),
    "X-Axon-Deadline-Ms": (
        "0",
        "10",
        "60000",
        "60001",
        "-1",
        "nan",
        "1e3",
        "",
        "9" * 400,
        "10, 20",
    ),
    "X-Request-Timeout-Seconds": ("0", "-1", "nan", "1e9"),
    "X-Request-Disconnect-Disabled": ("?1",),
    "X-Forwarded-For": ("127.0.0.1", "x" * 2_000, "::1, evil"),
    "Content-Encoding": ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip"),
    "Transfer-Encoding": ("chunked", "gzip, chunked", "identity"),
    "Content-Length": ("0", "-1", "5", "99999999999999999999", "1, 1", "x"),
    "Expect": ("100-continue", "200-ok"),
    "Range": ("bytes=0-1", "bytes=-1", "lines=0-"),
    "If-None-Match": ("*", '"x"', "W/"),
    "Accept": ("*/*", "text/html", "application/xml;q=2", ""),
    "Accept-Encoding": ("gzip", "*;q=0", "br;q=nan"),
    "Host": ("localhost", "", "evil.example", "localhost:99999", "[::1"),
    "Origin": ("null", "http://localhost", "https://evil.example", "x"),
    "Cookie": ("a=b" * 500,),
    "Authorization": ("Basic x", "Bearer", "Bearer \xff", "Bearer " + "x" * 9_000),
}
LONGEST_LIST = 40


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """One request.

    Attributes:
        route: method and path of the operation in the document, e.g. `POST /v1/score`.
        method: as sent; usually that of the operation.
        target: path and query, percent-encoded.
        headers: latin-1 text.
        body: b"" for none.
    """

    route: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class HostileRequests:
    """Makes requests of an OpenAPI document, of every operation in turn.

    Args:
        document: OpenAPI 3.1.
        seed: of the random choices.
        known: parameter of a path -> existing values, which half of the requests name.
        without: routes that are left out.
    """

    def __init__(
        self,
        document: Json,
        seed: int,
        known: Mapping[str, Sequence[str]] = {},
        without: Sequence[str] = (),
    ) -> None:
        self._document, self._random, self._known = document, random.Random(seed), known  # noqa: S311
        self.operations = {
            f"{method.upper()} {path}": operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if method in METHODS and f"{method.upper()} {path}" not in without
        }

    def take(self, count: int) -> Iterator[HostileRequest]:
        """Make `count` requests."""
        routes = list(self.operations)
        for number in range(count):
            yield self._request(routes[number % len(routes)])

    def _request(self, route: str) -> HostileRequest:
        method, path = route.split(" ")
        operation = self.operations[route]
        query, headers = [], []
        for parameter in operation.get("parameters", []):
            name = parameter["name"]
            value = self._parameter(name, parameter["schema"])
            if parameter["in"] == "path":
                path = path.replace(f"{{{name}}}", quote(value or "_", safe="", errors="replace"))
            elif parameter["in"] == "query" and self._happens(0.5):
                query.append(f"{quote(name)}={quote(value, safe='', errors='replace')}")
            elif parameter["in"] == "header" and self._happens(0.3):
                headers.append((name, value))
        if self._happens(0.1):
            query.append(self._random.choice(("x=1", "&&=", "%zz", "a" * 3_000, "explain=1" * 2)))
        body, media = self._body(operation)
        if media or self._happens(0.1):
            headers.append(("Content-Type", media))
        odd = self._random.sample(sorted(HEADERS), self._random.choice((0, 0, 0, 1, 1, 3)))
        headers += [(name, self._random.choice(HEADERS[name])) for name in odd]
        if self._happens(0.03):
            method = self._random.choice(METHODS).upper()
        sent = tuple((name, _header_text(value)) for name, value in headers)
        return HostileRequest(route, method, path + "?" * bool(query) + "&".join(query), sent, body)

    def _happens(self, share: float) -> bool:
        return self._random.random() < share

    def _parameter(self, name: str, schema: Json) -> str:
        if name in self._known and self._happens(0.5):
            return self._random.choice(self._known[name])
        if self._happens(0.4):
            return self._random.choice(TEXTS)
        value = self._value(schema)
        return value if isinstance(value, str) else json.dumps(value)

    def _body(self, operation: Json) -> tuple[bytes, str]:
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return (b"{}", "application/json") if self._happens(0.2) else (b"", "")
        media, described = self._random.choice(sorted(content.items()))
        if "json" in media:
            data = self._json(described)
        else:
            data = self._random.randbytes(self._random.choice((0, 1, 512, 5_000)))
        if self._happens(0.25):
            data = self._random.choice(SPOILERS)(self._random, data)
        return data, self._random.choice(MEDIA) if self._happens(0.1) else media

    def _json(self, described: Json) -> bytes:
        examples = [one["value"] for one in described.get("examples", {}).values()]
        value = (
            self._random.choice(examples)
            if examples and self._happens(0.5)
            else self._value(described["schema"])
        )
        raw = ""
        for _ in range(self._random.choice((0, 0, 1, 1, 3))):
            value, raw = self._spoiled(value), self._random.choice(RAW)
        return json.dumps(value).replace(json.dumps(MARK), raw).encode()

    def _spoiled(self, value: Any) -> Any:
        """Replace, remove, repeat or add something somewhere inside `value`."""
        if isinstance(value, dict) and value and self._happens(0.8):
            key = self._random.choice(sorted(value))
            changed = dict(value)
            match self._random.randrange(5):
                case 0:
                    del changed[key]
                case 1:
                    changed[self._text()] = changed[key]
                case _:
                    changed[key] = self._spoiled(changed[key])
            return changed
        if isinstance(value, list) and value and self._happens(0.8):
            place = self._random.randrange(len(value))
            match self._random.randrange(5):
                case 0:
                    return value[:place]
                case 1:
                    return value + value[: LONGEST_LIST * 2]
                case _:
                    return [*value[:place], self._spoiled(value[place]), *value[place + 1 :]]
        choices: Sequence[Callable[[], Any]] = (
            lambda: self._random.choice(ODD_VALUES),
            lambda: self._random.choice(NUMBERS),
            self._text,
            lambda: MARK,
            lambda: _nested(self._random.choice((3, 15, 17, 200))),
        )
        return self._random.choice(choices)()

    def _text(self) -> str:
        if self._happens(0.5):
            return self._random.choice(TEXTS)
        return "".join(self._random.choices(string.printable, k=self._random.randrange(20)))

    def _value(self, schema: Json, depth: int = 0) -> Any:
        """Make a value that the schema allows, or nearly."""
        schema = self._resolved(schema)
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        for word in ("oneOf", "anyOf"):
            if word in schema and "properties" not in schema:
                return self._value(self._random.choice(schema[word]), depth + 1)
        kinds = schema.get("type", "object" if "properties" in schema else "null")
        kind = self._random.choice(kinds) if isinstance(kinds, list) else kinds
        makers: Mapping[str, Callable[[], Any]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: self._array(schema, depth),
            "integer": lambda: self._random.randint(*_bounds(schema)),
            "number": lambda: self._random.uniform(*_bounds(schema)),
            "boolean": lambda: self._happens(0.5),
            "string": lambda: self._text()[: schema.get("maxLength", 40)],
        }
        return makers[kind]() if kind in makers else None

    def _array(self, schema: Json, depth: int) -> list[Any]:
        least = min(schema.get("minItems", 0), 100)
        most = min(schema.get("maxItems", 5), max(least, LONGEST_LIST))
        items = schema.get("items", {})
        return [self._value(items, depth + 1) for _ in range(self._random.randint(least, most))]

    def _object(self, schema: Json, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {
            name: self._value(inner, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or self._happens(0.5)
        }
        further = schema.get("additionalProperties")
        if isinstance(further, Mapping) and depth < 8:
            made |= {self._text(): self._value(further, depth + 1) for _ in range(3)}
        return made

    def _resolved(self, schema: Json) -> Json:
        while "$ref" in schema or "allOf" in schema:
            if "$ref" in schema:
                name = schema["$ref"].rpartition("/")[2]
                schema = self._document["components"]["schemas"][name]
            else:
                merged: dict[str, Any] = {key: schema[key] for key in schema if key != "allOf"}
                for part in schema["allOf"]:
                    merged |= self._resolved(part)
                schema = merged
        return schema


def _bounds(schema: Json) -> tuple[int, int]:
    return int(schema.get("minimum", -10)), int(schema.get("maximum", 1_000))


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def _header_text(value: str) -> str:
    return "".join(character if ord(character) < 256 else "?" for character in value)


def _flip(source: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\xff"
    place = source.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << source.randrange(8)]) + data[place + 1 :]


SPOILERS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    lambda source, data: data[: source.randrange(len(data) + 1)],
    _flip,
    lambda _, data: data + data,
    lambda _, data: b"\xef\xbb\xbf" + data,
    lambda _, data: data.decode(errors="replace").encode("utf-16"),
    lambda _, data: zlib.compress(data),
    lambda _, data: b'{"events":' * 300 + data,
    lambda _, data: data.replace(b'":', b'":1,"id":', 1),
    lambda source, _: source.randbytes(64),
    lambda *_: b"[" * 20_000,
    lambda *_: b"",
    lambda *_: b"null",
)
