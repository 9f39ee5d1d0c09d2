"""data.py TOKENIZER_IDS N TOKENIZER_JSON...: the ids of N random strings, from graft and from Hugging Face's library.

Strings: any Unicode, mixtures of scripts, words with digits and white space, long runs of one letter, added tokens,
and per tokenizer two of 1 MB without a space. Broken UTF-8 cannot be given to the library, which takes characters;
that such bytes come back as they were is a unit test. Where the two differ, a string is compared again without
characters that are newer than this Python's Unicode: a pattern's \\p{L} depends on the tables of whoever runs it.
"""
import random
import struct
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer

tool, total, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
           (0x1100, 0x11FF), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)]
WORDS = "the and it's We'LL I'VE don't  \n \r\n \t 123 4567 ... !? -- == // foo_bar CamelCase \u00a0 \u3000".split(" ") + [" ", "  ", "\n\n", "\u2028"]


def character(rng, low, high):
    while True:
        code = rng.randint(low, high)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def make(rng, added):
    kind = rng.randrange(6)
    n = rng.randint(0, 80)
    if kind == 0:
        return "".join(character(rng, 0, 0x10FFFF) for _ in range(n))
    if kind == 1:
        return "".join(character(rng, *rng.choice(SCRIPTS)) for _ in range(n))
    if kind == 2:
        low, high = rng.choice(SCRIPTS)
        return "".join(rng.choice([" ", "\n", "\u0301"]) if rng.random() < 0.15 else character(rng, low, high) for _ in range(n))
    if kind == 3:
        return "".join(rng.choice(WORDS) + rng.choice(["", " "]) for _ in range(n))
    if kind == 4:
        return character(rng, *rng.choice(SCRIPTS)) * rng.randint(1, 3000)
    return "".join(rng.choice(added) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(n))


class Graft:
    def __init__(self, path):
        self.process = subprocess.Popen([tool, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, data):
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        n, = struct.unpack("<I", self.process.stdout.read(4))
        return list(struct.unpack(f"<{n}i", self.process.stdout.read(4 * n)))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def known(text):
    """The text without characters that this Python's Unicode does not have: tables of other years class them otherwise."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


differing = compared = newer = 0
for path in paths:
    theirs, ours, rng = Tokenizer.from_file(path), Graft(path), random.Random(path.rsplit("/", 1)[1])
    added = [t.content for t in theirs.get_added_tokens_decoder().values()]
    here = 0
    cases = (make(rng, added) for _ in range(total // len(paths)))
    for text in [*("x" * (1 << 20), "0123456789abcdef" * (1 << 16)), *cases]:
        want, got = theirs.encode(text, add_special_tokens=False).ids, ours.encode(text.encode())
        here += 1
        if want != got and known(text) != text:
            newer += 1
            text = known(text)
            want, got = theirs.encode(text, add_special_tokens=False).ids, ours.encode(text.encode())
        if want != got:
            differing += 1
            print(f"{path}: differs: {text[:120]!r}\n  theirs {want[:20]}\n  graft  {got[:20]}")
    compared += here
    print(f"{path.rsplit('/', 1)[1]}: {here} strings")
    ours.close()
print(f"{compared} compared, {differing} differ; {newer} were compared without characters newer than Unicode {unicodedata.unidata_version}")
sys.exit(differing != 0)
