"""Witnesses, instance lists and results files."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenn.errors import InputError
from provenn.specs import (
    ResultRow,
    Witness,
    append_result,
    format_witness,
    parse_witness,
    read_instances,
    read_results,
    read_witness,
    unfinished,
    write_witness,
)


def test_witness_format():
    text = format_witness(Witness(np.array([0.25, -0.5], np.float32), np.array([1.0], np.float32)))
    assert text == "((X_0 0.25)\n (X_1 -0.5)\n (Y_0 1.0))"


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["float32", "float64", "float16"]))
def test_witness_round_trip(data, element_type):
    width = int(element_type[5:])
    finite = st.lists(st.floats(width=width, allow_nan=False, allow_infinity=False), min_size=1, max_size=5)
    anything = st.lists(st.floats(width=width), max_size=4)
    inputs = np.array(data.draw(finite), element_type)
    outputs = np.array(data.draw(anything), element_type)
    witness = parse_witness("sat\n" + format_witness(Witness(inputs, outputs)), element_type)
    np.testing.assert_array_equal(witness.inputs, inputs)
    np.testing.assert_array_equal(witness.outputs, outputs)
    assert witness.inputs.dtype == inputs.dtype


def test_witness_files(tmp_path):
    witness = Witness(np.array([0.1], np.float32), np.array([3], np.int64))
    write_witness(tmp_path / "w", witness, verdict=True)
    assert (tmp_path / "w").read_text().splitlines()[0] == "sat"
    (tmp_path / "w.gz").write_bytes(gzip.compress((tmp_path / "w").read_bytes()))
    assert read_witness(tmp_path / "w.gz").inputs[0] == np.float32(0.1)
    with pytest.raises(InputError, match="cannot be written"):
        write_witness(tmp_path / "none" / "w", witness)
    with pytest.raises(ValueError, match="finite"):
        format_witness(Witness(np.array([np.inf]), np.zeros(1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unsat",
        "()",
        "((X_1 0))",
        "((X_0 0) (X_0 1))",
        "((Y_0 1) (X_0 0))",
        "((X_0 a))",
        "((X_0 0) 1)",
        "((X_0 0)",
    ],
)
def test_malformed_witness(text):
    with pytest.raises(InputError):
        parse_witness(text)


def test_instances(tmp_path):
    folder = tmp_path / "family"
    (folder / "onnx" / "deep").mkdir(parents=True)
    (folder / "onnx" / "deep" / "a.onnx.gz").write_bytes(b"")
    (folder / "p.vnnlib").write_bytes(b"")
    (folder / "instances.csv").write_text(
        '\ufeff./onnx/deep/a.onnx, p.vnnlib.gz ,60\n\n"./onnx/b,c.onnx","p.vnnlib",1.5e1\r\n',
        encoding="utf-8",
    )
    for path in (folder, folder / "instances.csv", tmp_path):
        first, second = read_instances(path)
        assert first.network_path == folder / "onnx" / "deep" / "a.onnx.gz"
        assert first.property_path == folder / "p.vnnlib"
        assert (first.category, first.network, first.timeout) == ("family", "./onnx/deep/a.onnx", 60)
        assert (second.network, second.timeout) == ("./onnx/b,c.onnx", 15)
        assert second.network_path == folder / "onnx" / "b,c.onnx"  # missing: said when it is read
    versioned = tmp_path / "other" / "1.0"
    versioned.mkdir(parents=True)
    (versioned / "instances.csv").write_text("onnx,vnnlib,timeout\na,b,1\n")
    assert [one.category for one in read_instances(tmp_path)] == ["family", "family", "other"]


@pytest.mark.parametrize("text", ["a,b\n", "a,b,c\na,b,c\n", "a,b,1\na,b,x\n", "a,b,-1\n", "a,b,nan\n", "a,b,inf\n",
                                  "a.onnx,p.vnnlib,soon\n", "a.onnx.gz,p,\n"])  # fmt: skip
def test_malformed_instances(tmp_path, text):
    (tmp_path / "instances.csv").write_text(text)
    with pytest.raises(InputError, match=r"instances.csv:\d+"):
        read_instances(tmp_path)


def test_no_instances(tmp_path):
    with pytest.raises(InputError, match="no instances"):
        read_instances(tmp_path)
    with pytest.raises(InputError, match=r"x: no such folder or file; name an instances\.csv or a folder that has one"):
        read_instances(tmp_path / "x")
    for content, text in ((b"\x08\x07\0,1,2\n", "a binary file; name an"), (b"net\n", "got 1 columns, .*; name an")):
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(InputError, match=f"net.onnx.*{text} instances.csv"):
            read_instances(tmp_path / "net.onnx")
    for text in ("", "onnx,vnnlib,timeout\n", "\n\n"):
        (tmp_path / "instances.csv").write_text(text)
        with pytest.raises(InputError, match=r"instances.csv: has no instances"):
            read_instances(tmp_path)


def test_results_resume_after_a_torn_line(tmp_path):
    (tmp_path / "instances.csv").write_text("a.onnx,p.vnnlib,1\na.onnx,q.vnnlib.gz,1\na.onnx,q.vnnlib.gz,1\n")
    instances = read_instances(tmp_path)
    path = tmp_path / "results.csv"
    assert read_results(path) == [] and unfinished(instances, path) == instances
    rows = [
        ResultRow(instances[0].category, "a.onnx", "p.vnnlib", 0.0, "sat", 1.25),
        ResultRow(instances[0].category, "./a.onnx", "q.vnnlib", 0.5, "unsat", 2.0),
    ]
    append_result(path, rows[0])
    with path.open("a") as file:
        file.write("cat,a.onn")  # the process died here
    assert read_results(path) == rows[:1]
    append_result(path, rows[1])
    assert read_results(path) == rows
    assert path.read_text().splitlines()[0].endswith(",a.onnx,p.vnnlib,0,sat,1.25")
    assert unfinished(instances, path) == instances[2:]
    path.write_text("a,b,c\n")
    with pytest.raises(InputError, match=r"results.csv:1"):
        read_results(path)
