"""Standard terms: words with a private meaning stay out of texts, help, messages and code."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from fcnseg.cli.app import app
from tests.test_docs import DOCUMENTS, ROOT, name_of

ANYWHERE = {
    r"trunks?": "backbone",
    r"rungs?": "skip",
    r"heeds?": "distributed",
    r"flatters?|flatter(ed|ing)": "optimistic",
    r"(go|goes|going|gone) on (with|from)": "resume",
    r"goes on": "resume, continue",
    r"whole way": "full pipeline",
    r"abreast": "parallel",
    r"sittings?": "runs",
    r"what (it|each part) is worth": "ablation",
    r"(other|new) kin of": "subclass",
    r"by heart": "overfit",
    r"listeners?": "callback",
    r"artists?|painters?": "renderer, figures",
    r"tall(y|ies)": "count",
    r"verbs?": "command",
    r"crews?|hire[sd]?": "pool of workers, start",
    r"wish(es|ed)?": "options, requested",
}
"""Pattern of words -> what is said instead; in code, identifiers are split into words."""

IN_TEXTS = ANYWHERE | {
    r"pictures?": "image",
    r"answers?|answered": "prediction, output, response",
    r"shares?": "proportion, shard, contribution, probability",
    r"ladders?": "decoder, skips",
    r"lanes?": "parallel",
    r"stead(y|ied|ier|ies)": "smoothed",
    r"(pass|passes|passed|passing) over": "skip",
    r"look-?alikes?": "similar images",
    r"by turns": "alternating",
    r"gone on": "resumed",
    r"troubles?": "errors, warnings",
    r"leaves? away|left away": "omit",
}
"""These are ordinary English as well, or still in code; texts for users do without them."""

TEXTS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
"""Kinds of tokens; Python 3.12 splits f-strings."""

KEPT = (
    r"--rungs\b",  # a flag, documented beside its other spelling
    r"\btrain share the video\b",
    r"--(mix-)?shares?\b",
    r"--pictures\b",
    r"\bsteady state\b",
    r"`(unlabelled|covered)-picture`",  # codes of `check --json`
    r"`lookalikes-across-splits`",
    r"`Segmenter\.rungs`",  # the changelog says what it is called now
)

KEPT_IN_CODE = {
    "rungs": "the state-dict key decoder.rungs of every checkpoint, and the flag --rungs",
    "trunk_output": "an attribute of torchvision's RegNet",
}


def private_words(text: str, words: dict[str, str]) -> list[str]:
    """What is wrong with a text: 'trunk (backbone)'."""
    for kept in KEPT:
        text = re.sub(kept, "", text)
    return [
        f"{hit[0]!r} in {text[max(0, hit.start() - 30) : hit.end() + 30]!r}: {instead}"
        for pattern, instead in words.items()
        for hit in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents(path: Path) -> None:
    assert private_words(path.read_text(encoding="utf-8"), IN_TEXTS) == []


def test_help() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command in commands.values():
        texts = [command.help or "", *(getattr(p, "help", "") or "" for p in command.params)]
        assert private_words("\n".join(texts), IN_TEXTS) == [], command.name


def split(code: str) -> str:
    """Identifiers as words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", code).replace("_", " ")


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment, string and identifier, the latter split into words."""
    source = path.read_text(encoding="utf-8")
    if not re.search(rf"\b(?:{'|'.join(ANYWHERE)})\b", split(source), re.IGNORECASE):
        return  # which most files are, and tokens take long
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in KEPT_IN_CODE:
            yield token.start[0], split(token.string)
        elif token.type in TEXTS:
            yield token.start[0], token.string


@pytest.mark.parametrize("folder", ["fcnseg", "examples", "benchmarks", "tests"])
def test_code(folder: str) -> None:
    found = [
        f"{name_of(path)}:{line}: {hit}"
        for path in sorted(ROOT.joinpath(folder).rglob("*.py"))
        if path != Path(__file__)  # which lists them
        for line, text in words_of(path)
        for hit in private_words(text, ANYWHERE)
        if not any(f"'{kept}'" in hit for kept in KEPT_IN_CODE)
    ]
    assert found == [], "\n".join(found)
