"""Keys in plain Python, written from docs/keys.md alone: the oracle for the C core.

Shares no code with the package. Slow and short on purpose.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isfinite, isnan, nan
from urllib.parse import unquote, unquote_to_bytes

from xxhash import xxh3_128_digest as hash128

KEY_VERSION = 1


@dataclass(frozen=True)
class Folded:
    """A folded value, as a printed key has it."""

    tag: str
    digest: bytes
    length: int


# --- items ----------------------------------------------------------------------------------------


def u32(number):
    return number.to_bytes(4, "little")


def integer(number):
    if -(2**63) <= number < 2**63:
        return b"i" + number.to_bytes(8, "little", signed=True)
    magnitude = abs(number)
    body = magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "little")
    return (b"+" if number > 0 else b"-") + u32(len(body)) + body


def rational(number):
    exact = Fraction(number)
    if exact.denominator == 1:
        return integer(exact.numerator)
    return b"r" + integer(exact.numerator) + integer(exact.denominator)


def item(value):
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, float):
        if isnan(value):
            return b"?"
        if value in (inf, -inf):
            return b">" if value > 0 else b"<"
        return rational(value)
    if isinstance(value, int | Fraction):
        return rational(value)
    if isinstance(value, str):
        return b"s" + u32(len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"b" + u32(len(value)) + value
    if isinstance(value, list | tuple):
        return b"l" + u32(len(value)) + b"".join(map(item, value))
    assert isinstance(value, Mapping), value
    return mapping({name: item(value[name]) for name in value})


def mapping(items):
    pairs = sorted((name.encode(), encoded) for name, encoded in items.items())
    body = b"".join(b"s" + u32(len(name)) + name + encoded for name, encoded in pairs)
    return b"m" + u32(len(items)) + body


# --- keys -----------------------------------------------------------------------------------------


def fold(value):
    """What stands for one parameter value."""
    if isinstance(value, Folded):
        return b"d" + value.tag.encode() + value.digest + u32(value.length)
    whole = item(value)
    tag = whole[:1]
    if tag in b"sb" and len(whole) - 5 > 64:
        length = len(whole) - 5
    elif tag in b"lm" and len(whole) > 64:
        length = len(whole)
    else:
        return whole
    return b"d" + tag + hash128(whole) + u32(length)


def parameters(params):
    items = {}
    for name, value in params.items():
        if name == "params" and isinstance(value, Mapping):
            items[name] = mapping({inner: fold(value[inner]) for inner in value})
        else:
            items[name] = fold(value)
    return mapping(items)


def key(profile, source, artifact, params):
    head = integer(KEY_VERSION) + item(profile) + item(source) + item(artifact)
    return b"l" + u32(5) + head + parameters(params)


def raw_key(text):
    return b"l" + u32(3) + integer(KEY_VERSION) + item("raw") + item(text)


# --- the printed form -----------------------------------------------------------------------------


def escape(text):
    def one(character):
        code = ord(character)
        if character in ":=%*'" or code < 0x20 or 0x7F <= code < 0xA0:
            return "".join(f"%{byte:02X}" for byte in character.encode())
        return character

    return "".join(map(one, text))


def print_integer(number):
    if -(2**63) <= number < 2**63:
        return str(number)
    return ("-" if number < 0 else "") + f"0x{abs(number):x}"


def print_number(number):
    if isinstance(number, float) and not isfinite(number):
        return {inf: "inf", -inf: "-inf"}.get(number, "nan")
    exact = Fraction(number)
    if exact.denominator == 1:
        return print_integer(exact.numerator)
    try:
        real = exact.numerator / exact.denominator
    except OverflowError:
        real = nan
    if isfinite(real) and Fraction(real) == exact:
        return repr(real)
    return f"{print_integer(exact.numerator)}/{print_integer(exact.denominator)}"


def print_item(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Fraction):
        return print_number(value)
    if isinstance(value, str):
        return f"'{escape(value)}'"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(print_item, value)) + "]"
    names = sorted(value, key=str.encode)
    return "{" + ",".join(f"{print_item(n)}={print_item(value[n])}" for n in names) + "}"


def print_parameter(value):
    if not isinstance(value, Folded):
        folded = fold(value)
        if folded[:1] != b"d":
            return print_item(value)
        value = Folded(chr(folded[1]), folded[2:18], int.from_bytes(folded[18:], "little"))
    return f"~{value.digest.hex()}+{value.length}{value.tag}"


def print_key(profile, source, artifact, params):
    words = [escape(profile)] if profile else []
    words += ["video", source.hex(), escape(artifact)]
    for name in sorted(params, key=str.encode):
        value = params[name]
        if name == "params" and isinstance(value, Mapping):
            inner = sorted(value, key=str.encode)
            pairs = [f"{print_item(n)}={print_parameter(value[n])}" for n in inner]
            words.append(f"params={{{','.join(pairs)}}}")
        else:
            words.append(f"{escape(name)}={print_parameter(value)}")
    return ":".join(words)


# --- sources --------------------------------------------------------------------------------------


def fingerprint(identity):
    encoded = item(identity)
    if identity[0] == "sha256":
        return hashlib.sha256(encoded).digest()[:16]
    return hash128(encoded)


def escape_bytes(data, also=""):
    """Valid UTF-8 as it is; what is none, controls and `also` as %XX."""
    text = data.decode("utf-8", "surrogateescape")
    shown = []
    for character in text:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            shown.append(f"%{code - 0xDC00:02X}")
        elif character in also or code < 0x20 or 0x7F <= code < 0xA0:
            shown += [f"%{byte:02X}" for byte in character.encode()]
        else:
            shown.append(character)
    return "".join(shown)


def path_uri(path):
    return "file://" + escape_bytes(path, also="%")


SIGNATURE = "signature expires policy key-pair-id awsaccesskeyid googleaccessid ossaccesskeyid"
SIG = "sig se st sp sv sr ss srt sip spr skoid sktid skt ske sks skv saoid suoid scid sdd"
SECRET = (
    "access_token id_token token api_key apikey password passwd secret client_secret auth"
    " authorization jwt"
)


def lower(text):
    return "".join(c.lower() if "A" <= c <= "Z" else c for c in text)


def uri(source):
    """The canonical URI of a text that starts like a URI, or None with the path for a local one."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    scheme, rest = found[1], source[found.end() :]
    end = re.search(r"[/?#]|$", rest).start()
    host, rest = rest[:end], rest[end:]
    if lower(scheme) == "file" and lower(host) in ("", "localhost"):
        return path_uri(unquote_to_bytes(rest.encode("utf-8", "surrogateescape")))
    host = lower(host[host.rfind("@") + 1 :])
    rest, mark, fragment = rest.partition("#")
    path, question, query = rest.partition("?")
    kept = []
    names = [unquote(part.split("=")[0]).lower() for part in query.split("&")]
    for part, name in zip(query.split("&"), names, strict=True):
        signed = name.startswith(("x-amz-", "x-goog-"))
        signed |= "signature" in names and name in SIGNATURE.split()
        signed |= "sig" in names and name in SIG.split()
        if signed:
            continue
        if name in SECRET.split() and "=" in part:
            label, _, secret = part.partition("=")
            part = label + "=~" + hashlib.sha256(secret.encode()).hexdigest()[:16]
        kept.append(part)
    left = "&".join(kept)
    if query:
        question = "?" if left else ""
    whole = f"{lower(scheme)}://{host}{path}{question}{left}{mark}{fragment}"
    return escape_bytes(whole.encode("utf-8", "surrogateescape"))
