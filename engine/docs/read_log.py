#!/usr/bin/env python3
"""Reads the segments of a log, by wal-format.md alone: python3 read_log.py DIR/log-0000

Prints segments, records and the slots that they fill, oldest first, up to the first record that isn't whole. It checks
checksums, positions and the chain of records, and repairs nothing."""
import pathlib, struct, sys, zlib

KINDS = "- accepted chosen copied healed promise configuration - mark pack trim".split()
BODIES = {1: "commands", 2: "no-ops", 3: "configuration", 4: "trim", 5: "session", 6: "ticket"}
BLOCK = 4096
u32 = lambda data, at: struct.unpack_from("<I", data, at)[0]
u64 = lambda data, at: struct.unpack_from("<Q", data, at)[0]
checks = lambda data, salt=0: u32(data, 8) == zlib.crc32(data[12:], zlib.crc32(data[:8], salt))
ballot = lambda data, at: "%d.%d.%d" % (u64(data, at), u32(data, at + 16), u64(data, at + 8))  # round, node, boot

def vector(data, at):
    distance, count = struct.unpack_from("<iI", data, at)
    return at + distance, count

def slots(body):  # what a body says, slot by slot
    first, count, root = u64(body, 32), u32(body, 28), len(body) - 28
    if body[6] != 1:
        return [(first, count, BODIES[body[6]])]
    stride, (ends, sized), (blob, _) = u32(body, root + 8), vector(body, root + 12), vector(body, root + 20)
    end = [u32(body, ends + 4 * i) if sized else stride * (i + 1) for i in range(count)]
    return [(first + i, 1, body[blob + (end[i - 1] if i else 0):blob + end[i]].hex()) for i in range(count)]

def bodies(record):  # one, but for packs: those have a directory behind 32 bytes and the block checksums
    ends, first = [256 + u32(record, 36)], 256
    if record[256:260] == b"SYNP":
        directory, first = 288 + len(record) // BLOCK * 4, 256 + u32(record, 260)
        ends = [u32(record, directory + 4 * i) for i in range(u32(record, 264))]
    return [record[start:end] for start, end in zip([first] + ends, ends) if start < end]

def record_at(segment, salt, at, epoch, position):  # none if it isn't whole
    pack = segment[at + 256:at + 260] == b"SYNP"
    head = 256 + (u32(segment, at + (260 if pack else 268)) if u32(segment, at + 36) else 0)
    size, record = u32(segment, at + 32), segment[at:at + u32(segment, at + 32)]
    if record[:4] != b"SYNR" or (u64(record, 16), u64(record, 24)) != (epoch, position) or head > BLOCK:
        return None
    if len(record) != size or size % BLOCK or not checks(record[:head], salt):
        return None
    parts = [record[head if i == 0 else i * BLOCK:(i + 1) * BLOCK] for i in range(size // BLOCK)] if head > 256 else []
    sums = [u32(record, (288 if pack else 384) + 4 * i) for i in range(len(parts))]
    return record if sums == [zlib.crc32(part) for part in parts] else None

def main(directory):
    segments = {}
    for path in pathlib.Path(directory).glob("segment-*.wal"):
        data = path.read_bytes()
        if data[:4] == b"SYNS" and checks(data[:BLOCK].ljust(BLOCK, b"\0")):
            segments[u64(data, 88)] = data.ljust(u64(data, 24), b"\0")
    chain, epoch = [], max(segments, default=0)
    while epoch in segments:
        chain, epoch = [epoch] + chain, u64(segments[epoch], 104)
    if not chain:
        sys.exit("%s: no segment of a log" % directory)
    found, previous = [], None
    for index, epoch in enumerate(chain):
        data, size = segments[epoch], u64(segments[epoch], 24)
        salt = zlib.crc32(data[32:48] + data[64:76] + data[48:64] + data[76:80])
        following = segments[chain[index + 1]] if index + 1 < len(chain) else bytes(BLOCK)
        at, end = BLOCK, u64(following, 112) - epoch * size if u64(following, 112) else size
        found.append((epoch, None))
        while at < end and (record := record_at(data, salt, at, epoch, epoch * size + at)):
            if previous not in (None, u32(record, 12)):
                break  # follows another record than the last one
            found.append((epoch, record))
            previous, at = u32(record, 8), at + len(record)
        seal = data[at:at + BLOCK]
        if at < end and not (seal[:4] in (b"SYNG", b"SYNI", b"SYNT", b"SYNF") and checks(seal, salt) and u64(seal, 16) == epoch):
            break  # neither named nor sealed: the log ends here
    needed = max(u64(record, 152) if record else u64(segments[epoch], 136) for epoch, record in found)
    for epoch, record in found:
        if epoch >= needed and record is None:
            print("segment", epoch)
        elif epoch >= needed:
            print(u64(record, 24), KINDS[record[6]], ballot(record, 48), "promised", ballot(record, 72), "mark", u64(record, 104))
            for body in bodies(record):
                for first, count, what in slots(body):
                    print(" ", first, count, what)

main(sys.argv[1])
