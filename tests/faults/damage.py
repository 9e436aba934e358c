"""Ways to spoil a file: its bytes, or the numbers, words and structure of a text.

Number n is the same damage in every run: all chance comes from the seed.
"""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from typing import Any

HEAD = 400  # bytes at the beginning, where most of a file's structure stands

NUMBERS = (
    "0", "-1", "1e308", "-1e308", "1e999", "NaN", "Infinity", "-Infinity", "2147483647",
    "-2147483649", "4294967296", "9223372036854775808", "99999999999999999999999", "0.5", "1e-320",
    "70000", "00", "0x10",
)  # fmt: skip

WORDS = (
    "", " ", "../../../../etc/passwd", "/etc/passwd", "..", ".", "C:\\\\x", "\\\\\\\\host\\\\x",
    "\\u0000", "\\ud800", "\\u001b[2J", "<script>alert(1)</script>", "&lt;!ENTITY", "a\\nb", "0",
    "null", "é" * 300, "x" * 70_000, "{0}", "%s", "__class__", "#gg0000", "images", "background",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", "1",
    [], [[]], [None], {}, {"": {}}, [[[1, 2]]], [1, 2, 3], "../../../etc/passwd", "\ud800", "\0",
    [0] * 5000,
)  # fmt: skip


def damaged(data: bytes, seed: str) -> bytes:
    """The data with one to eight injuries, the same for the same seed."""
    chance, made = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 8)):
        reach = min(HEAD, len(made)) if chance.random() < 0.7 else len(made)
        at = chance.randrange(max(1, reach))
        kind = chance.choice(["byte", "byte", "bit", "number", "out", "again", "zeros"])
        if kind == "byte":
            made[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == "bit":
            made[at : at + 1] = bytes([(made[at] if made else 0) ^ 1 << chance.randrange(8)])
        elif kind == "number":
            number = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 60000])
            made[at : at + 4] = struct.pack(chance.choice("<>") + "I", number)
        elif kind == "out":
            del made[at : at + chance.randint(1, 64)]
        elif kind == "again":
            made[at:at] = made[at : at + chance.randint(1, 64)]
        else:
            made[at : at + 16] = bytes(16)
    return bytes(made[: chance.randrange(len(made) + 1)] if chance.random() < 0.2 else made)


def damaged_text(data: bytes, seed: str) -> bytes:
    """A text with one to three other numbers, words, gaps or repetitions; or other bytes."""
    chance = random.Random(seed)
    if not data or chance.random() < 0.25:
        return damaged(data, seed)
    if data[:1] in b"[{" and chance.random() < 0.6:
        return _damaged_json(data, chance)
    text = data.decode("utf-8", "replace")
    for _ in range(chance.randint(1, 3)):
        text = _with_another_token(text, chance)
    if chance.random() < 0.02:  # what an editor may have saved it in
        return text.encode(chance.choice(["utf-16", "utf-8-sig", "utf-32-be"]), "replace")
    return text.encode("utf-8", "replace")


def _with_another_token(text: str, chance: random.Random) -> str:
    tokens = list(re.finditer(r'-?\d+(\.\d+)?|"[^"\n]*"|[\w.]+|[^\w\s]|\n', text))
    if not tokens:
        return text
    token = chance.choice(tokens)
    start, end, own = token.start(), token.end(), token[0]
    kind = chance.choice(["other", "other", "other", "out", "again", "swap"])
    if kind == "out":
        other = ""
    elif kind == "again":
        other = own * chance.choice([2, 2, 2, 3000])
    elif kind == "swap":
        other = chance.choice(tokens)[0]
    elif own[0] == '"':
        other = f'"{chance.choice(WORDS)}"'
    elif own[0].isdigit() or own[0] == "-":
        other = chance.choice(NUMBERS)
    else:
        other = chance.choice([*WORDS, *NUMBERS, "[" * 3000, "{", "}", "]", ",", "<", ">", "="])
    return text[:start] + other + text[end:]


def _damaged_json(data: bytes, chance: random.Random) -> bytes:
    try:
        root = json.loads(data)
    except ValueError:
        return damaged(data, str(chance.random()))
    for _ in range(chance.randint(1, 3)):
        places = list(_places(root))
        if not places:
            break
        parent, key = chance.choice(places)
        kind = chance.choice(["other", "other", "other", "out", "again", "deep"])
        if kind == "other":
            parent[key] = copy.deepcopy(chance.choice(VALUES))
        elif kind == "out":
            del parent[key]
        elif kind == "again" and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif kind == "deep":
            parent[key] = [parent[key]]
    return json.dumps(root).encode()


def _places(node: Any) -> Any:
    """Every (container, key) of a document."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])
