"""data.py TOKENIZER_IDS N TOKENIZER_JSON...: the ids of N random strings, from graft and from Hugging Face's library.

Strings: see CLASSES; and per tokenizer two of 1 MB without a space. The library takes characters, so broken UTF-8 is given to
it in parts: what Python's decoder takes, and each part that it rejects as one word, spelled as byte-level models spell bytes.
Where the two differ, a string is compared again without characters that are newer than this Python's Unicode: a pattern's
\\p{L} depends on the tables of whoever runs it.
"""
import collections
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


def any_unicode(rng, added):
    return "".join(character(rng, 0, 0x10FFFF) for _ in range(rng.randint(0, 80)))


def many_scripts(rng, added):
    return "".join(character(rng, *rng.choice(SCRIPTS)) for _ in range(rng.randint(0, 80)))


def one_script(rng, added):
    low, high = rng.choice(SCRIPTS)
    return "".join(rng.choice([" ", "\n", "\u0301"]) if rng.random() < 0.15 else character(rng, low, high) for _ in range(rng.randint(0, 80)))


def words(rng, added):
    return "".join(rng.choice(WORDS) + rng.choice(["", " "]) for _ in range(rng.randint(0, 80)))


def one_letter(rng, added):
    return character(rng, *rng.choice(SCRIPTS)) * rng.randint(1, 3000)


def added_tokens(rng, added):
    return "".join(rng.choice(added) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(rng.randint(0, 80)))


def broken_utf8(rng, added):
    whole = rng.choice([any_unicode, many_scripts, words, added_tokens])(rng, added).encode()
    data = bytearray(whole or b"a")
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            data[at:at] = bytes(rng.randrange(128, 256) for _ in range(rng.randint(1, 4)))
    return bytes(data)


CLASSES = [any_unicode, many_scripts, one_script, words, one_letter, added_tokens, broken_utf8]

# GPT-2's spelling of bytes (openai/gpt-2, src/encoder.py).
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
SPELLED = {byte: chr(byte) for byte in PRINTABLE}
SPELLED.update((byte, chr(0x100 + i)) for i, byte in enumerate(b for b in range(256) if b not in SPELLED))


def ids_of(tokenizer, text):
    if isinstance(text, str):
        return tokenizer.encode(text, add_special_tokens=False).ids
    ids = []
    while text:
        try:
            return ids + tokenizer.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError as error:
            if error.start:
                ids += tokenizer.encode(text[:error.start].decode(), add_special_tokens=False).ids
            ids += [token.id for token in tokenizer.model.tokenize("".join(SPELLED[b] for b in text[error.start:error.end]))]
            text = text[error.end:]
    return ids


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
    count = collections.Counter()

    def texts():
        for text in ("x" * (1 << 20), "0123456789abcdef" * (1 << 16)):
            yield "1 MB without a space", text
        for _ in range(total // len(paths)):
            kind = rng.choice(CLASSES)
            yield kind.__name__.replace("_", " "), kind(rng, added)

    for kind, text in texts():
        want, got = ids_of(theirs, text), ours.encode(text.encode() if isinstance(text, str) else text)
        count[kind] += 1
        if want != got and isinstance(text, bytes):
            text = text.decode(errors="surrogateescape")
            known_text = known(text).encode(errors="surrogateescape")
            newer += 1
            want, got = ids_of(theirs, known_text), ours.encode(known_text)
        elif want != got and known(text) != text:
            newer += 1
            text = known(text)
            want, got = ids_of(theirs, text), ours.encode(text.encode())
        if want != got:
            differing += 1
            print(f"{path}: differs: {text[:120]!r}\n  theirs {want[:20]}\n  graft  {got[:20]}")
    compared += count.total()
    print(f"{path.rsplit('/', 1)[1]}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(count.items())))
    ours.close()
print(f"{compared} compared, {differing} differ; {newer} were compared without characters newer than Unicode {unicodedata.unidata_version}")
sys.exit(differing != 0)
