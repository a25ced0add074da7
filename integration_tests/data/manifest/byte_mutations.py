"""A file with one random change."""


def mutated(content, chance):
    content = bytearray(content)
    how = chance.choice(["cut", "flip", "flip", "insert", "swap", "noise", "twice", "bytes"])
    at = chance.randrange(len(content))
    if how == "cut":
        del content[at:]
    elif how == "flip":
        for _ in range(chance.choice([1, 3, 30])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == "insert":
        marks = [b'"', b"'", b"\n", b"\r", b"\0", b",", b"\xff", b"[" * 9999, b"\xef\xbb\xbf", b"{"]
        content[at:at] = chance.choice(marks) * chance.choice([1, 2, 200])
    elif how == "swap":
        other = chance.randrange(len(content))
        content[min(at, other) : max(at, other)] = content[min(at, other) : max(at, other)][::-1]
    elif how == "noise":
        content[:] = chance.randbytes(chance.choice([1, 50, 5000]))
    elif how == "twice":
        content += bytes(content)
    else:
        content[:] = bytes(content).replace(
            *chance.choice([(b"p1", b"p0"), (b"photos", b"../../etc"), (b"train", b"trian")])
        )
    return bytes(content)
