"""Ways in which a line of a manifest, or a shard, can be wrong; see ``mutations.py``."""
# ruff: noqa: ARG001 (not every mutation needs all that each is given)

import json

import pyarrow as pa
import pyarrow.parquet as pq
from data.manifest.sample_files import image


def a_wrong_type(ground, chance, folder, lines):
    key = chance.choice([*ground.good, "text", "id", "split"])
    wrong = [{"a": 1}, [[]], [{"bytes": "x"}], [None], [7], [True]]
    if key != "id":
        wrong += [1, 0.5, False, [""], ["a\ud800b"], "\ud800"]
    at = chance.randrange(len(lines))
    lines[at][key] = chance.choice(wrong)
    return [f".jsonl:{at + 1}"]


def a_broken_line(ground, chance, folder, lines):
    at = chance.randrange(len(lines))
    text = json.dumps(lines[at]).encode()
    lines[at] = chance.choice(
        [
            text[: chance.randrange(1, len(text))],
            text.replace(b'"id"', b'"id": NaN, "x"'),
            text.replace(b"{", b'{"id": 3, ', 1),
            text + text,
            b"[" * 50_000,
            b'{"a":' * 50_000,
            b"\xff" + text,
            text.decode().encode("utf-16").replace(b"\n", b""),
            b'{"id": ' + b"1" * 5000 + b"}",
            b"null",
            b"[" + text + b"]",
            b"\0" * 100,
        ]
    )
    return [f".jsonl:{at + 1}"]


def a_path_that_leads_out(ground, chance, folder, lines):
    at = chance.randrange(len(lines))
    kind = chance.choice(list(ground.good))
    path = chance.choice(
        [
            *("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/proc/self/environ", ".."),
            *("image/../../x.png", "/", "a\0.npy", "//etc/passwd", "./../" * 50 + "etc/passwd"),
        ]
    )
    lines[at][kind] = [path]
    return [f".jsonl:{at + 1}"]


def a_path_to_nothing(ground, chance, folder, lines):
    kind = chance.choice(list(ground.good))
    name = chance.choice(
        [
            *("~/x.npy", "none.npy", "x" * 5000, "a/" * 2000, "\u202egnp.exe", "💥.png"),
            *("image/a.jpg/b", "C:\\x.png", "file:///etc/passwd", "http://x/y.png", "$HOME/a.npy"),
            *("*.npy", "image/A.JPG\n", "CON", "-rf", "%2e%2e/x"),
        ]
    )
    chance.choice(lines)[kind] = [name]
    return ["missing"]


def an_id_in_two_splits(ground, chance, folder, lines):
    first, second = sorted(chance.sample(range(len(lines)), 2))
    lines[second]["id"] = lines[first]["id"]
    others = [split for split in ("train", "val", "test") if split != lines[first]["split"]]
    lines[second]["split"] = chance.choice(others)
    return [f".jsonl:{second + 1}"]


def an_unknown_split(ground, chance, folder, lines):
    at = chance.randrange(len(lines))
    lines[at]["split"] = chance.choice(
        ["trains", "validity", "", "trian", "тест", "test\0", "tr\nain"]
    )
    return [f".jsonl:{at + 1}"]


def an_unknown_key(ground, chance, folder, lines):
    at = chance.randrange(len(lines))
    key = chance.choice(
        ["imgae", "Text", "text:", ":text", "text:a.b", "", "__class__", "💥", "a\0"]
    )
    lines[at][key] = ["x"]
    return [f".jsonl:{at + 1}"]


def no_lines(ground, chance, folder, lines):
    lines[:] = chance.choice([[], [b""], [b"   "], [b"{}"], [b"[]"], [chance.randbytes(300)]])
    return ["holds no instance"]


def strange_but_right(ground, chance, folder, lines):
    line = chance.choice(lines)
    line["id"] = chance.choice(
        ["💥", "e\u0301", "\u202e", " ", "", 0, -1, 1.5, False, "a\nb", "x" * 9999]
    )
    line["text"] = [
        chance.choice(["\u200b.", "ﷺ" * 100, "a\tb", "\\", "'\"", "<b>", "[red]x[/]", "\x1b[31m"])
    ]


def a_broken_shard(ground, chance, folder, lines):
    rows = [
        {
            "id": k,
            "split": line["split"],
            "text": line["text"],
            "image": [{"bytes": image("png", seed=k), "path": f"{k}.png"}],
        }
        for k, line in enumerate(lines)
    ]
    path = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2, compression="none")
    content = bytearray(path.read_bytes())
    how = chance.choice(["cut", "flip", "flip", "flip", "empty"])
    if how == "flip":
        for _ in range(chance.choice([1, 5, 50])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del content[chance.randrange(1, len(content)) :]
    else:
        content.clear()
    path.write_bytes(content)
    lines[:] = []
    return ["a.parquet"] if how != "flip" else None
