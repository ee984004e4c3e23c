"""Results of other tools: their columns, their words, and what is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from provenn.errors import InputError
from provenn.specs import ResultRow, append_result, read_results, read_tables

ROW = "acasxu,a.onnx,p.vnnlib,0.5,unsat,1.25\n"


def test_what_bench_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for result in ("unsat", "sat", "unknown", "timeout", "error"):
        append_result(path, ResultRow("f,a", f'onnx/"{result}".onnx', "p.vnnlib", 0.0, result, 1.5))
    (table,) = read_tables(path, "tool")
    assert (table.name, table.rows) == ("tool", read_results(path)) and len(table.rows) == 5


@pytest.mark.parametrize(
    ("word", "seconds", "limit", "verdict"),
    [
        ("holds", "1", "", "unsat"),
        ("Violated", "1", "", "sat"),
        (" sat ", "1", "", "sat"),
        ("timed-out", "", "", "timeout"),
        ("run_instance_timeout", "60", "", "timeout"),
        ("killed", "63.1", "60", "timeout"),
        ("killed", "12", "60", "error"),
        ("killed", "12", "", "error"),
        ("error_exit_code_1", "", "", "error"),
        ("no_result_in_file", "0", "", "error"),
        ("unknown", "3", "", "unknown"),
    ],
)
def test_words_of_other_tools(tmp_path: Path, word: str, seconds: str, limit: str, verdict: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(f"onnx,vnnlib,verdict,wall_total_s,timeout_s\na.onnx,p.vnnlib,{word},{seconds},{limit}\n")
    (row,) = read_tables(path, "other")[0].rows
    assert row == ResultRow("", "a.onnx", "p.vnnlib", 0.0, verdict, float(seconds or 0))


def test_configurations_are_tools_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "peer.csv.gz"
    text = (
        "\ufeffbenchmark,onnx,vnnlib,config,verdict,wall_total_s,solver_time_s\r\n"
        "acasxu,a.onnx,p.vnnlib,tuned,unsat,4,3\r\n\r\n"
        "acasxu,a.onnx,p.vnnlib,default,timeout,60,60\r\n"
        "acasxu,b.onnx,p.vnnlib,tuned,sat,5,3"
    )
    path.write_bytes(gzip.compress(text.encode()))
    tuned, default = read_tables(path, "peer")
    assert (tuned.name, default.name) == ("peer (tuned)", "peer (default)")
    assert [row.run_time for row in tuned.rows] == [4, 5] and default.rows[0].result == "timeout"


def test_known_answers_have_no_times(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text('benchmark,onnx,vnnlib,truth,why\nacasxu,a.onnx,p.vnnlib,sat,"it was seen"\n')
    (table,) = read_tables(path, "truth")
    assert not table.timed and table.rows == [ResultRow("acasxu", "a.onnx", "p.vnnlib", 0.0, "sat", 0.0)]


@pytest.mark.parametrize("tail", ["acasxu,b.onnx", "acasxu,b.onnx,q.vnnlib,0,uns", 'acasxu,"b.onnx', "a"])
def test_a_row_that_is_being_written_is_left_out(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(ROW + tail)
    assert len(read_tables(path, "tool")[0].rows) == 1


BAD = {
    "empty": ("", "has no results, expected lines of category,network"),
    "only a header": ("category,onnx,vnnlib,prepare_time,verdict,run_time\n", "has no results"),
    "columns": (ROW + "acasxu,a.onnx,p.vnnlib\n" + ROW, ":2: got 3 columns, expected category,network,property"),
    "instances": ("onnx/a.onnx,vnnlib/p.vnnlib,60\n" + ROW, ":1: got 3 columns"),
    "header without verdicts": ("category,onnx,vnnlib,seconds\n", ":1: the header has no column 'result'"),
    "header without networks": ("verdict,seconds,property\n", ":1: the header has no column 'network'"),
    "word": (ROW + ROW.replace("unsat", "maybe"), ":2: the result is 'maybe', expected one of unsat, sat"),
    "no word": (ROW.replace("unsat", ""), ":1: the result is ''"),
    "seconds": (ROW.replace("1.25", "soon"), ":1: run_time is 'soon', expected seconds"),
    "no seconds": (ROW.replace("1.25", ""), ":1: run_time is ''"),
    "negative": (ROW.replace("1.25", "-1"), ":1: run_time is '-1'"),
    "nan": (ROW.replace("1.25", "nan"), ":1: run_time is 'nan'"),
    "infinite": (ROW.replace("1.25", "inf"), ":1: run_time is 'inf'"),
    "prepare": (ROW.replace("0.5", "x"), ":1: prepare_time is 'x'"),
    "no network": (ROW.replace("a.onnx", " "), ":1: the network is empty"),
    "no property": (ROW.replace("p.vnnlib", ""), ":1: the property is empty"),
    "quotes": (ROW + '"a"b,c\n' + ROW, ":2: ',' expected after '\"'; mend the quotes"),
    "open quotes": (ROW + 'acasxu,"b.onnx,p,0,sat,1\n' + ROW + ROW, ":2: unexpected end of data; mend the quotes"),
    "open quotes, no end": (ROW + 'acasxu,"b.onnx,p,0,sat,1\n' + ROW + "a", ":2: unexpected end of data"),
    "a row of two lines": (ROW + '"a\nb",c\n' + ROW, ":2: got 2 columns"),
    "huge cell": (ROW + "a" * 200_000 + ",b\n" + ROW, ":2: field larger than field limit"),
    "binary": (ROW + "\0", "a binary file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_results_are_named(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_tables(path, "tool")
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(ROW.encode() + "réseau,a,b,0,unsat,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.csv:2: is not UTF-8 text; save"):
        read_tables(path, "tool")
    with pytest.raises(InputError, match="no such file"):
        read_tables(tmp_path / "none.csv", "tool")
