"""What is done to whole files, by chance."""

import re

EXTREMES = (
    0,
    1,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
    b"9" * 20,
    b"9" * 5000,
    b"0.5",
    b"[" * 2000,
)
JSON_VALUES = (
    None, True, -1, 0, 1, 0.5, -0.5, 1e308, float("nan"), float("inf"), 10**23, 2**63, 2**64, "x", "", [], {}, [1], {"a": 1},
)  # fmt: skip


def damaged(data, rng):
    """The bytes after one to three changes, every other one near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        end = len(data) if rng.random() < 0.5 else min(len(data), 600)
        at, length = int(rng.integers(0, end + 1)), int(rng.integers(1, 40))
        match rng.integers(0, 9):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 2 if data:
                data[at % len(data)] = int(rng.choice([0, 1, 127, 128, 255]))
            case 3:
                del data[at:]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = rng.bytes(length)
            case 6:
                data[at:at] = data[at : at + length * 20]
            case 7:
                size, order = int(rng.choice([2, 4, 8])), str(rng.choice(["little", "big"]))
                number = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * size)
                data[at : at + size] = number.to_bytes(size, order)
            case 8:
                numbers = list(re.finditer(rb"\d+", data))
                if numbers:
                    found = numbers[rng.integers(len(numbers))]
                    data[found.start() : found.end()] = WORDS[rng.integers(len(WORDS))]
    return bytes(data)
