#!/usr/bin/env python3
"""Checks an exported part of a Skytrail log, without Skytrail.

    skytrail log key > log.pub                       # once; keep it elsewhere
    skytrail log export --from 1 --to 5000 > part.jsonl
    python3 verify_log.py part.jsonl --key "$(cat log.pub)" [--checkpoints kept.jsonl [--whole]]

It recomputes the hash of every payload and every link of the chain. It checks that positions have
no gaps, that times do not run backwards, and that the chain contains every checkpoint signed with
the key. The only thing that it trusts is the key.

A kept checkpoint beyond the end of the export is named: the log had more than the export shows. That
is as it should be for a part, and with --whole it is an error.

It needs nothing but Python 3.9. With the package `blake3` installed it is a thousand times as fast.
"""

import argparse
import json
import struct
import sys
from datetime import datetime, timezone
from hashlib import sha512


class Wrong(Exception):
    """Something is not as it was written."""


# --- BLAKE3 -----------------------------------------------------------------------------------------

IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
# The words of the state that are mixed in each half of a round: columns, then diagonals.
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)
MASK = 0xFFFFFFFF


def rotated(word, bits):
    return (word >> bits) | (word << (32 - bits)) & MASK


def compress(chaining, words, counter, length, flags):
    """Returns the first eight words of a compressed block."""
    state = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    words = list(words)
    for number in range(7):
        if number:
            words = [words[place] for place in PERMUTATION]
        for (a, b, c, d), x, y in zip(QUARTERS, words[::2], words[1::2]):
            state[a] = (state[a] + state[b] + x) & MASK
            state[d] = rotated(state[d] ^ state[a], 16)
            state[c] = (state[c] + state[d]) & MASK
            state[b] = rotated(state[b] ^ state[c], 12)
            state[a] = (state[a] + state[b] + y) & MASK
            state[d] = rotated(state[d] ^ state[a], 8)
            state[c] = (state[c] + state[d]) & MASK
            state[b] = rotated(state[b] ^ state[c], 7)
    return [low ^ high for low, high in zip(state[:8], state[8:])]


def hash_chunk(chunk, counter, is_root):
    """Hashes at most 1024 bytes."""
    blocks = [chunk[start:start + 64] for start in range(0, len(chunk), 64)] or [b""]
    chaining = IV
    for number, block in enumerate(blocks):
        flags = CHUNK_START if number == 0 else 0
        if number == len(blocks) - 1:
            flags |= CHUNK_END | (ROOT if is_root else 0)
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        chaining = compress(chaining, words, counter, len(block), flags)
    return chaining


def hash_tree(data, counter, is_root):
    """Hashes bytes; `counter` is the number of the first chunk. Splits at a power of two."""
    if len(data) <= 1024:
        return hash_chunk(data, counter, is_root)
    half = 1024
    while 2 * half < len(data):
        half *= 2
    left = hash_tree(data[:half], counter, False)
    right = hash_tree(data[half:], counter + half // 1024, False)
    return compress(IV, left + right, 0, 64, PARENT | (ROOT if is_root else 0))


def slow_blake3(data):
    return struct.pack("<8I", *hash_tree(data, 0, True))


try:
    from blake3 import blake3 as _fast

    def blake3(data):
        return _fast(data).digest()
except ImportError:
    blake3 = slow_blake3


# --- Ed25519 ----------------------------------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def read_point(data):
    """Reads a point of the curve as (X, Y, Z, T)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        raise Wrong("not a point of the curve")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_ONE % P
    if x * x % P != square or (x == 0 and sign):
        raise Wrong("not a point of the curve")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def add(one, other):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = one, other
    a, b = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(number, point):
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = add(result, point)
        point = add(point, point)
        number >>= 1
    return result


BASE = read_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def is_signature(key, message, signature):
    """Returns whether an Ed25519 signature was made with a public key's private key."""
    try:
        r, a = read_point(signature[:32]), read_point(key)
    except Wrong:
        return False
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= ORDER:
        return False
    k = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % ORDER
    (x1, y1, z1, _), (x2, y2, z2, _) = multiply(s, BASE), add(r, multiply(k, a))
    return (x1 * z2 - x2 * z1) % P == 0 and (y1 * z2 - y2 * z1) % P == 0


# --- the log ----------------------------------------------------------------------------------------


def read_varint(data, offset):
    number = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, offset
        shift += 7


def read_header(header):
    """Returns a commit's first position, its number of events and its time in microseconds."""
    if header[0] != 1:
        raise Wrong(f"a commit of format {header[0]}, which is newer than this program")
    first, offset = read_varint(header, 3 + 16)
    count, offset = read_varint(header, offset)
    _epoch, offset = read_varint(header, offset)
    (time,) = struct.unpack_from("<q", header, offset)
    return first, count, time


def is_erasure(head):
    """Returns whether an event's head is that of `erasure.requested`."""
    if head[0] != 16:
        return False
    _version, offset = read_varint(head, 1 + 16)
    kind, _ = read_varint(head, offset)
    return kind == 128


def read_positions(text):
    """Reads positions such as `3,7-12` as ranges."""
    runs = (run.partition("-") for run in text.split(",") if run)
    return [range(int(first), int(last or first) + 1) for first, _, last in runs]


def micros(text):
    """Reads a time in the server's format, without losing a digit."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return int(seconds.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0") or 0)


def check_checkpoint(note, store_id, key):
    """Checks a checkpoint's signature."""
    place = f"the checkpoint at position {note['position']}"
    if note["store_id"] != store_id:
        raise Wrong(f"{place} is of another store")
    if note["key"] != key.hex():
        raise Wrong(f"{place} is signed with another key ({note['key']})")
    lines = (
        "skytrail checkpoint 1", note["store_id"], note["position"], micros(note["time"]),
        note["chain"], note["key"],
    )
    statement = "".join(f"{line}\n" for line in lines).encode()
    if not is_signature(key, statement, bytes.fromhex(note["signature"])):
        raise Wrong(f"the signature of {place} is not that of the key")


class Part:
    """A part of the log, as far as it has been read."""

    def __init__(self, head):
        if head.get("skytrail_log") != 1:
            raise Wrong("line 1 is not the head of an export")
        self.store_id = head["store_id"]
        self.chain = bytes.fromhex(head["previous_chain"])
        self.first = self.last = self.time = None
        self.commits = 0
        self.ends = {}
        # Positions of events without payloads, and what erasures name.
        self.blanks, self.named = [], []

    def take(self, commit, show):
        """Checks a commit against the one before it."""
        header = bytes.fromhex(commit["header"])
        first, count, time = read_header(header)
        if self.first is None:
            self.first = first
            self.ends[first - 1] = self.chain
            if first == 1 and any(self.chain):
                raise Wrong("nothing precedes position 1, but its chain does not begin with zeros")
        elif first != self.last + 1:
            raise Wrong(f"position {self.last + 1} is missing: {first} follows")
        elif time < self.time:
            raise Wrong(f"the time of position {first} is before that of the previous commit")
        if count != len(commit["events"]):
            raise Wrong(f"the commit at position {first} has {len(commit['events'])} of {count} events")
        covered = [self.chain, header]
        for number, event in enumerate(commit["events"]):
            head = bytes.fromhex(event["head"])
            covered.append(head)
            if "payload" in event:
                if is_erasure(head):
                    self.named += read_positions(json.loads(event["payload"])["positions"])
                content = bytes.fromhex(event["salt"]) + event["payload"].encode()
                covered.append(blake3(content))
            else:
                covered.append(bytes.fromhex(event["payload_hash"]))
                self.blanks.append(first + number)
            if show:
                at = datetime.fromtimestamp(time / 1e6, timezone.utc).isoformat()
                print(first + number, at, event.get("payload", "(erased)"))
        chain = blake3(b"".join(covered))
        if chain.hex() != commit["chain"]:
            raise Wrong(f"the chain hash does not match at position {first}")
        self.chain, self.last, self.time = chain, first + count - 1, time
        self.commits += 1
        self.ends[self.last] = chain

    def unnamed(self):
        """Returns the positions whose payloads are missing, though no erasure names them."""
        named = iter(sorted(self.named, key=lambda run: run.start))
        run, end = next(named, None), 0
        for position in self.blanks:
            while run is not None and run.start <= position:
                run, end = next(named, None), max(end, run.stop)
            if position >= end:
                yield position


def verify(lines, key, kept, show, is_whole):
    """Checks an export; returns the lines to print about it. With `is_whole`, it has to begin where
    the log begins, and to end no earlier than the last checkpoint."""
    part, notes = None, list(kept)
    for number, line in enumerate(lines, 1):
        try:
            read = json.loads(line)
            if part is None:
                part = Part(read)
            elif "checkpoint" in read:
                notes.append(read["checkpoint"])
            else:
                part.take(read, show)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Wrong(f"line {number} cannot be read: {error!r}") from error
    if part is None or part.first is None:
        raise Wrong("the export contains no commits")
    said = [
        f"{part.last - part.first + 1} events in {part.commits} commits, positions {part.first} to "
        f"{part.last}, hold together; the payloads of {len(part.blanks)} are erased"
    ]
    unnamed = list(part.unnamed())
    if unnamed:
        places = ", ".join(map(str, unnamed[:10])) + (", …" if unnamed[10:] else "")
        missing = f"payloads are missing that no erasure here names, at {places}"
        if is_whole:
            raise Wrong(missing)
        said.append(f"{missing}; this is all right only if a later erasure does")
    if is_whole and part.first != 1:
        raise Wrong(f"the export begins at position {part.first}, so it is not the whole log")
    if key is None:
        return said + ["without a key nothing says that they were not made up"]
    signed, beyond = [], []
    for note in notes:
        check_checkpoint(note, part.store_id, key)
        position = note["position"]
        if position > part.last:
            beyond.append(position)
        if not part.first - 1 <= position <= part.last:
            continue
        if part.ends.get(position, b"").hex() != note["chain"]:
            raise Wrong(f"the chain at position {position} differs from the signed one")
        signed.append(position)
    if beyond:
        ends = f"the export ends at {part.last}, but the log was signed at {max(beyond)}"
        if is_whole:
            raise Wrong(ends)
        said.append(f"{ends}; this is all right only if no more was asked for")
    if not signed or max(signed) < part.first:
        if is_whole:
            raise Wrong("no checkpoint says where the log ends")
        return said + ["no checkpoint is in this part: nothing says that it was not made up"]
    return said + [f"{len(signed)} signed checkpoints vouch for everything up to {max(signed)}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", help="what `skytrail log export` printed; - for standard input")
    parser.add_argument("--key", help="what `skytrail log key` printed")
    parser.add_argument("--checkpoints", help="a file of checkpoints that was kept elsewhere")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="fail unless the export begins with the log and reaches the last checkpoint",
    )
    parser.add_argument("--show", action="store_true", help="print the events, too")
    arguments = parser.parse_args()
    if not arguments.key and (arguments.checkpoints or arguments.whole):
        parser.error("checkpoints are checked with --key")
    try:
        key = bytes.fromhex(arguments.key.strip()) if arguments.key else None
        kept = []
        if arguments.checkpoints:
            with open(arguments.checkpoints, encoding="utf-8") as lines:
                kept = [json.loads(line) for line in lines if line.strip()]
        with (sys.stdin if arguments.export == "-" else open(arguments.export, encoding="utf-8")) as lines:
            said = verify(lines, key, kept, arguments.show, arguments.whole)
    except (Wrong, ValueError, OSError) as error:
        sys.exit(f"WRONG: {error}")
    print("\n".join(said))


if __name__ == "__main__":
    main()
