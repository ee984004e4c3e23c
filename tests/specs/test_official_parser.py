"""The official parser (PyPI `vnnlib` 1.0.2) as an oracle, in a process of its own: a deep nest ends the process."""

import importlib.util
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from provenn.errors import PropertyError, UnsupportedPropertyError
from provenn.specs import parse_query

JUDGE = """
import json, sys, vnnlib
def accepts(text):
    try:
        vnnlib.parse_query_string(text)
    except Exception:
        return False
    return True
verdicts = [accepts(text) for text in json.load(open(sys.argv[1]))]
print("\\n" + json.dumps(verdicts))
"""
spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)


def official(texts, folder):
    if importlib.util.find_spec("vnnlib") is None:
        pytest.skip("the official parser is not installed")
    path = folder / "texts.json"
    path.write_text(json.dumps(texts))
    ran = subprocess.run([sys.executable, "-c", JUDGE, str(path)], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.strip().split("\n")[-1])


@lru_cache(None)
def strict(text):
    """The query; False, or None where the text may be good but is about what provenn does not decide."""
    try:
        return parse_query(text.encode(), "p", strict=True)
    except UnsupportedPropertyError:
        return None
    except PropertyError:
        return False


def ours(text):
    found = strict(text)
    return found if found is None else bool(found)


def test_the_official_parser_and_the_strict_one_accept_and_reject_the_same(tmp_path):
    texts = corpus.corpus()
    mine = {name: ours(text) for name, text in texts.items()}
    judged = [name for name, verdict in mine.items() if verdict is not None]
    assert len(judged) >= 200
    theirs = dict(zip(judged, official([texts[name] for name in judged], tmp_path), strict=True))
    assert [name for name in judged if mine[name] != theirs[name]] == []
    assert 40 < sum(theirs.values()) < len(judged) - 40


def test_known_defects_of_the_official_parser_are_not_shared(tmp_path):
    texts = corpus.defects()
    assert set(texts) == set(corpus.DEFECTS)
    theirs = official(list(texts.values()), tmp_path)
    for (name, text), verdict in zip(texts.items(), theirs, strict=True):
        assert ours(text) is not None and ours(text) != verdict, name


def test_whatever_the_strict_parser_accepts_is_accepted(tmp_path):
    """Tolerance adds texts and changes none."""
    for text in (corpus.corpus() | corpus.defects()).values():
        if ours(text):
            tolerant = parse_query(text.encode())
            assert strict(text).clause_count == tolerant.clause_count
            for one, other in zip(strict(text).batches(9), tolerant.batches(9), strict=True):
                assert (one.threshold == other.threshold).all() and (one.column == other.column).all()


def test_the_examples_are_in_the_standard(tmp_path):
    folder = Path(__file__).parents[2] / "vnnlib_examples" / "vnnlib"
    texts = {path.name: path.read_text() for path in sorted(folder.glob("*.vnnlib"))}
    texts = {name: text for name, text in texts.items() if "(vnnlib-version" in text}
    assert len(texts) >= 6
    assert [name for name, text in texts.items() if not ours(text)] == []
    assert all(official(list(texts.values()), tmp_path))
