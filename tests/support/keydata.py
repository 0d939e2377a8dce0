"""Golden vectors: values in JSON with their types, and where the files are."""

import json
from fractions import Fraction
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "keys"


def load(name):
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def from_json(node):
    """A value from its typed form: {"int": "30"}, {"float": "0x1.8p+0"}, {"list": [...]} ..."""
    if node is None or isinstance(node, bool):
        return node
    ((kind, body),) = node.items()
    match kind:
        case "int":
            return int(body)
        case "float":
            return float.fromhex(body) if body not in ("nan", "inf", "-inf") else float(body)
        case "ratio":
            return Fraction(int(body[0]), int(body[1]))
        case "str":
            return body
        case "bytes":
            return bytes.fromhex(body)
        case "list":
            return [from_json(item) for item in body]
        case "map":
            return {name: from_json(item) for name, item in body}
        case "repeat":
            return from_json(body[0]) * body[1]
    raise ValueError(f"unknown type {kind}")


def to_json(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": value.hex() if value - value == 0 else str(value)}
    if isinstance(value, Fraction):
        return {"ratio": [str(value.numerator), str(value.denominator)]}
    if isinstance(value, str):
        return {"str": value}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list | tuple):
        return {"list": [to_json(item) for item in value]}
    return {"map": [[name, to_json(item)] for name, item in value.items()]}
