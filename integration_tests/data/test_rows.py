"""Rows of tables and lists, against the csv module, json and pandas."""

import csv
import datetime
import io
import json
import re

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.columns import values_of
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import Row, read_rows, read_table, text_lines
from mxmclr_plugin.errors import DataError

WORDS = st.text(st.sampled_from("ab ,;|\t\"'\n#é椅"), max_size=8).map(str.strip)


@given(
    st.lists(st.tuples(WORDS.filter(bool), WORDS, WORDS), max_size=6),
    st.sampled_from(",;|\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\r\n", "\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_tables_are_read_as_the_csv_module_writes_them(
    tmp_path_factory, rows, delimiter, quoting, end, encoding
):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([("image", "caption", "split"), *rows])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    read = [row.values for row in read_rows(path, ProblemLog("raise"))]
    expected = [{"image": a or None, "caption": b or None, "split": c or None} for a, b, c in rows]
    assert read == expected


def table(tmp_path, content, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    log = ProblemLog()
    columns, rows = read_table(path, log, **options)
    return columns, [row.values for row in rows], log.problems


def test_a_table_of_pandas(tmp_path):
    frame = pandas.DataFrame({"a": ["x, y", 'say "no"', "two\nlines"], "b": [1, 2, None]})
    frame.to_csv(tmp_path / "p.csv")  # with an index column that has no name
    found = [row.values for row in read_rows(tmp_path / "p.csv", ProblemLog("raise"))]
    assert found == [
        {"a": "x, y", "b": "1.0"},
        {"a": 'say "no"', "b": "2.0"},
        {"a": "two\nlines", "b": None},
    ]


def test_quotation_marks_that_are_no_quotes(tmp_path):
    content = 'image,caption\na,"big" dog\nb,"never closed\nc,"a dog, running"\nd,5" tall\n'
    _, rows, problems = table(tmp_path, content)
    assert [row["caption"] for row in rows] == [
        *('"big" dog', '"never closed', "a dog, running", '5" tall')
    ]
    assert problems == []


@pytest.mark.parametrize("before", ["sep=;\n", "\n  \n", "\ufeffSEP=;\r\n\r\n"])
def test_lines_before_the_head(tmp_path, before):
    """Excel names the delimiter in a line of its own, which pandas would take for the head."""
    text = "image;caption\na.png;one, two\n"
    columns, rows, problems = table(tmp_path, before + text)
    assert columns == ["image", "caption"]
    assert rows == [{"image": "a.png", "caption": "one, two"}]
    assert not problems


def test_the_delimiter_is_not_looked_for_in_quotes(tmp_path):
    columns, rows, _ = table(tmp_path, '"image","a; b; c; d"\na.png,x\n')
    assert columns == ["image", "a; b; c; d"]
    assert rows == [{"image": "a.png", "a; b; c; d": "x"}]


@pytest.mark.parametrize("line", [r'"he said \"hi\", yes"', r'"he said \"hi\""'])
def test_quotes_behind_backslashes(tmp_path, line):
    """As MySQL and pandas with an escape character write them."""
    (tmp_path / "p.csv").write_text(text := f"image,caption\na.png,{line}\n")
    frame = pandas.read_csv(tmp_path / "p.csv", escapechar="\\", doublequote=False)
    _, rows, problems = table(tmp_path, text)
    assert rows == frame.to_dict("records")
    assert not problems


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('a.png, "a, b"', "a, b"),
        ('a.png, "abc"', "abc"),
        ('a.png, 5" pipe', '5" pipe'),
        ('a.png,He said, "hi"', 'He said, "hi"'),
        ("a.png,A man,  a dog", "A man,  a dog"),
    ],
)
def test_quotes_behind_blanks(tmp_path, line, caption):
    """A quoted field may follow a blank; in captions without quotes all is kept."""
    text = f"image, caption\n{line}\n"
    _, rows, problems = table(tmp_path, text, last_takes_rest=True)
    assert rows == [{"image": "a.png", "caption": caption}]
    assert not problems


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"PK\x03\x04abc", "is a ZIP archive"),
        ("a.csv", b"PAR1\0\0\0\0\0\0\0\0\n", "is a Parquet file"),
        ("a.csv", b"\x1f\x8b\x08abc\n", "is compressed with gzip"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>", "is an HTML page"),
        ("a.xls", b"\xd0\xcf\x11\xe0\0\0", "is an Office file of before 2007: save it as .xlsx"),
        ("a.csv", "image,text\na,b\n".encode("utf-16-le"), "text in UTF-16-LE.*set encoding="),
        ("a.csv", "image,text\na,b\n".encode("utf-16-be"), "text in UTF-16-BE.*set encoding="),
        ("a.json", b'{"image": {"0": "a.png"}, "text": {"0": "b"}}', "holds one object.*records"),
        ("a.json", b'{"data": [{"image": "a.png", "text": "b"}]}', "holds one object"),
        ("a.json", b'{\n "image": "a.png",\n "text": "b"\n}', "holds one object"),
    ],
)
def test_files_that_are_no_table(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(read_rows(tmp_path / name, ProblemLog()))


@pytest.mark.parametrize("text", ["Off we go", "ply", "BM and GIF89a", "NRRD0004", "é glTF"])
def test_a_text_may_begin_as_a_file_of_another_form(tmp_path, text):
    (tmp_path / "a.txt").write_text(f"{text}\n", encoding="utf-8")
    assert list(text_lines(tmp_path / "a.txt", ProblemLog("raise"))) == [(1, text)]


def test_lines_of_json_in_a_file_called_json(tmp_path):
    path = tmp_path / "a.json"
    for lines in ([{"image": "a", "text": ["b", "c"]}], [{"text": [{"raw": "a"}]}, {"text": "b"}]):
        path.write_text("\n".join(map(json.dumps, lines)))
        assert [row.values for row in read_rows(path, ProblemLog("raise"))] == lines


def test_lines_of_another_length(tmp_path):
    content = "a,b\n1,2\n3\n4,5,6\n7,8,,\n\n9,10"
    _, rows, problems = table(tmp_path, content)
    assert rows == [{"a": "1", "b": "2"}, {"a": "7", "b": "8"}, {"a": "9", "b": "10"}]
    assert [(problem.where.rpartition(":")[2], problem.what) for problem in problems] == [
        ("3", "it has 1 fields, the head has 2: a,b"),
        ("4", "it has 3 fields, the head has 2: a,b"),
    ]
    _, rows, problems = table(tmp_path, content, last_takes_rest=True)
    assert {"a": "4", "b": "5,6"} in rows
    assert len(problems) == 1


def test_the_number_of_a_record_is_that_of_its_first_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x\ny"\n2,z\n')
    wheres = [row.where for row in read_rows(path, ProblemLog("raise"))]
    assert wheres == [f"{path}:2", f"{path}:4"]


def test_tables_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv is empty"):
        table(tmp_path, "")
    with pytest.raises(DataError, match=r"t\.csv:1: two columns are called 'a'"):
        table(tmp_path, "a,b,a\n")


@pytest.mark.parametrize(
    ("encoding", "guess"),
    [("cp1252", "Windows-1252"), ("latin-1", "Latin-1 or Windows-1252")],
)
def test_a_line_in_another_encoding(tmp_path, encoding, guess):
    text = "café “x”" if encoding == "cp1252" else "café"
    content = b"a,b\n1," + text.encode(encoding) + b"\n2,caf\xc3\xa9\n"
    _, rows, (problem,) = table(tmp_path, content)
    assert rows == [{"a": "2", "b": "café"}]
    assert problem.where.endswith("t.csv:2")
    assert f"it looks like {guess}: save the file as UTF-8" in problem.what


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path, encoding):
    mark = "" if encoding == "utf-16" else "\ufeff"
    for name in ("t.csv", "t.jsonl"):
        (tmp_path / name).write_bytes(f'{mark}{{"a": 1}}\n'.encode(encoding))
        with pytest.raises(DataError, match=rf"{name} is text in UTF-16: save it as UTF-8"):
            list(read_rows(tmp_path / name, ProblemLog()))


def test_lists_and_lines_of_json(tmp_path):
    entries = [{"id": 1, "text": ["a"]}, {"id": 2}]
    lines, listed = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("\ufeff" + "\n\n".join(map(json.dumps, entries)))
    listed.write_text(json.dumps([*entries, "x"], indent=1))
    log = ProblemLog("raise")
    assert list(read_rows(lines, log)) == [
        Row(f"{lines}:1", entries[0]),
        Row(f"{lines}:3", entries[1]),
    ]
    assert list(read_rows(listed, log)) == [
        *(Row(f"{listed}: entry {k}", entry) for k, entry in enumerate([*entries, {"": "x"}]))
    ]
    listed.write_text('{"a": 1}\n{"a": 2}\n')  # lines under another name
    assert [row.values for row in read_rows(listed, log)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is no JSON: "),
        ("3", "it is no JSON object"),
        ('{"a": 1, "a": 2}', "a key stands there twice"),
        ('{"a": NaN}', "NaN is no number of JSON's"),
        ("[" * 100_000, "it is no JSON: .*; the file begins as a list, .* called .json"),
        ("id,text", "the file begins as a table, which is read from a file called .csv"),
    ],
)
def test_lines_that_are_no_row(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{line}\n{{"a": 1}}\n')
    log = ProblemLog()
    assert [row.values for row in read_rows(path, log)] == [{"a": 1}]
    (problem,) = log.problems
    assert (problem.kind, problem.where) == ("line unreadable", f"{path}:1")
    assert re.search(reason, problem.what)


def test_what_git_lfs_leaves(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("a.csv", "a.jsonl", "a.json"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
            list(read_rows(tmp_path / name, ProblemLog()))
    (tmp_path / "a.parquet").write_text(pointer)
    with pytest.raises(DataError, match=r"a\.parquet: is no Parquet.*Git LFS pointer.*lfs pull"):
        list(read_rows(tmp_path / "a.parquet", ProblemLog()))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "cp932", "utf_8", "UTF8"])
def test_another_encoding(tmp_path, encoding):
    text = "表" if encoding == "cp932" else "é"
    rows = [{"a": f"{text}1", "b": f"two\n{text}"}, {"a": "3", "b": "x"}]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False, encoding=encoding)
    frame.to_json(tmp_path / "b.jsonl", orient="records", lines=True, force_ascii=False)
    frame.to_json(tmp_path / "c.json", orient="records", force_ascii=False)
    for name in ("b.jsonl", "c.json"):
        content = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_bytes(content.encode(encoding))
    for name in ("a.csv", "b.jsonl", "c.json"):
        found = [row.values for row in read_rows(tmp_path / name, ProblemLog("raise"), encoding)]
        assert found == rows
    (tmp_path / "a.csv").write_bytes(b"a,b\n\x81\x81\x81,\x00\xd8\n")
    with pytest.raises(DataError, match=r"a\.csv(:2)?:? ?(is no text in|.*line unreadable)"):
        list(read_rows(tmp_path / "a.csv", ProblemLog("raise"), encoding))


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ('["a", "b, c"]', ["a", "b, c"]),
        ("['a', \"it's\"]", ["a", "it's"]),
        ("[]", []),
        ("[red] mug", "[red] mug"),
        ("[1, 2]", "[1, 2]"),
        ("['a', 2]", "['a', 2]"),
        ("['a' for a in b]", "['a' for a in b]"),
        ("['a'", "['a'"),
    ],
)
def test_a_list_in_a_cell(tmp_path, cell, values):
    pandas.DataFrame({"id": ["1"], "text": [cell]}).to_csv(tmp_path / "a.csv", index=False)
    (row,) = read_rows(tmp_path / "a.csv", ProblemLog("raise"))
    assert row.values == {"id": "1", "text": values}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("length", [900_000, 2_000_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "x"), ("['a'", "]x"), ("[", "]")])
def test_a_long_cell_is_no_list(length, begin, end):
    cell = begin + " " * length + end
    assert values_of(cell) == ([] if end == "]" and length < 1_000_000 else [cell])


def test_what_excel_has(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (
        ["SKU", "title", None, "price", "made"],
        [17, " a\nb ", "x", 2.5, datetime.date(2020, 1, 2)],
        [],
        ["018", None, None, True, "=1+1"],
    ):
        book.active.append(cells)
    book.create_sheet("other").append(["no"])
    book.save(tmp_path / "a.xlsx")
    found = [(row.where, row.values) for row in read_rows(tmp_path / "a.xlsx", ProblemLog("raise"))]
    assert found == [
        (
            f"{tmp_path / 'a.xlsx'}: row 2",
            {"SKU": "17", "title": "a\nb", "price": "2.5", "made": "2020-01-02 00:00:00"},
        ),
        (
            f"{tmp_path / 'a.xlsx'}: row 4",
            {"SKU": "018", "title": None, "price": "True", "made": None},
        ),
    ]
    (tmp_path / "a.xlsx").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="is no Excel file that can be read"):
        list(read_rows(tmp_path / "a.xlsx", ProblemLog()))


def test_rows_before_and_sheets_behind_those_of_excel(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    book = openpyxl.Workbook()
    for cells in ((None, " "), ("image", "caption"), ("a.png", 5), (None, None), ("b.png", "x")):
        book.active.append(cells)
    book.save(path)
    found = [(row.where, row.values) for row in read_rows(path, ProblemLog("raise"))]
    assert found == [
        (f"{path}: row 3", {"image": "a.png", "caption": "5"}),
        (f"{path}: row 5", {"image": "b.png", "caption": "x"}),
    ]
    book = openpyxl.Workbook()
    book.active.title = "read me"
    book.active.append(["made by us"])
    book.create_sheet("data").append(["image"])
    book.save(path)
    with pytest.raises(DataError, match=r"first sheet, 'read me', has no rows.*not read: data"):
        list(read_rows(path, ProblemLog()))


def test_a_column_of_bytes_is_one_of_files(tmp_path):
    frame = pandas.DataFrame({"image": [b"one", b"two", None], "caption": ["a", "b", "c"]})
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=2)
    rows = [row.values for row in read_rows(tmp_path / "a.parquet", ProblemLog("raise"))]
    assert [row["caption"] for row in rows] == ["a", "b", "c"]
    for row, content in zip(rows, (b"one", b"two"), strict=False):
        (file,) = row["image"]
        with file.unpacked() as path:
            assert path.read_bytes() == content
    with pytest.raises(DataError, match=r"row 3, image 1 .* holds no bytes"):
        rows[2]["image"][0].unpacked().__enter__()


def test_a_file_that_is_not_there(tmp_path):
    for name in ("a.csv", "a.json", "a.jsonl"):
        with pytest.raises(DataError, match=rf"{name} cannot be read: No such file or directory$"):
            list(read_rows(tmp_path / name, ProblemLog()))


@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "json", "jsonl", "txt"]))
def test_any_bytes_are_rows_or_problems_or_an_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_bytes(content)
    try:
        rows = list(read_rows(path, ProblemLog()))
    except DataError:
        return
    assert all(isinstance(row.values, dict) for row in rows)
