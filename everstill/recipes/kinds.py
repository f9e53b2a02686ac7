"""Kinds of file that the standard library makes: each maker turns a real file's content into another kind of content.

`number` makes two contents of one source differ. Every maker is deterministic.
"""

import base64
import bz2
import configparser
import csv
import email.message
import gzip
import html
import io
import json
import lzma
import pickle
import plistlib
import sqlite3
import struct
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable

Maker = Callable[[bytes, int], bytes]


def _lines(content: bytes, most: int = 60) -> list[str]:
    return [line.strip() for line in content.decode("latin-1").splitlines() if line.strip()][:most]


def make_gzip(content: bytes, number: int) -> bytes:
    """A gzip stream."""
    return gzip.compress(content, compresslevel=1 + number % 9, mtime=number)


def make_tar_gz(content: bytes, number: int) -> bytes:
    """A gzipped tar archive."""
    return gzip.compress(make_tar(content, number), mtime=number)


def make_bzip2(content: bytes, number: int) -> bytes:
    """A bzip2 stream."""
    return bz2.compress(content, 1 + number % 9)


def make_xz(content: bytes, number: int) -> bytes:
    """An xz stream."""
    return lzma.compress(content, preset=number % 4)


def make_zlib(content: bytes, number: int) -> bytes:
    """A zlib stream."""
    return zlib.compress(content, 1 + number % 9)


def make_tar(content: bytes, number: int) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(f"file-{number}")
        member.size, member.mtime = len(content), number
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_zip(content: bytes, number: int) -> bytes:
    """A zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"file-{number}"), content)
    return buffer.getvalue()


def make_pickle(content: bytes, number: int) -> bytes:
    """A pickle of words and counts; it is only looked at, never loaded."""
    words = _lines(content)
    return pickle.dumps(
        {"number": number, "lines": words, "lengths": [len(word) for word in words]}, protocol=2 + number % 4
    )


def make_jsonl(content: bytes, number: int) -> bytes:
    """JSON lines."""
    rows = (
        {"id": number * 1000 + place, "text": line, "size": len(line)} for place, line in enumerate(_lines(content))
    )
    return "\n".join(json.dumps(row) for row in rows).encode()


def make_plist(content: bytes, number: int) -> bytes:
    """An Apple property list, binary or XML."""
    kind = plistlib.FMT_BINARY if number % 2 else plistlib.FMT_XML
    lines = [line.encode("ascii", "ignore").decode() for line in _lines(content)]
    printable = ["".join(c for c in line if c.isprintable()) for line in lines]
    return plistlib.dumps({"Number": number, "Lines": printable}, fmt=kind)


def make_sqlite(content: bytes, number: int) -> bytes:
    """A SQLite database with one table."""
    with sqlite3.connect(":memory:") as connection:
        _fill(connection, content, number)
        data = connection.serialize()
    connection.close()
    return data


def make_sql(content: bytes, number: int) -> bytes:
    """The SQL dump of such a database."""
    with sqlite3.connect(":memory:") as connection:
        _fill(connection, content, number)
        dump = "\n".join(connection.iterdump())
    connection.close()
    return dump.encode()


def _fill(connection: sqlite3.Connection, content: bytes, number: int) -> None:
    connection.execute("CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT NOT NULL, size INTEGER)")
    rows = [(number + place, line, len(line)) for place, line in enumerate(_lines(content))]
    connection.executemany("INSERT INTO line VALUES (?, ?, ?)", rows)
    connection.commit()


def make_png(content: bytes, number: int) -> bytes:
    """A greyscale PNG whose pixels are the content."""
    width = 16 + number % 48
    height = max(1, min(64, len(content) // width))
    rows = b"".join(b"\0" + content[row * width : (row + 1) * width].ljust(width, b"\0") for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def make_wav(content: bytes, number: int) -> bytes:
    """A mono wave file whose samples are the content."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000 + number % 4 * 8000)
        sound.writeframes(content[: len(content) // 2 * 2])
    return buffer.getvalue()


def make_ini(content: bytes, number: int) -> bytes:
    """An INI file."""
    parser = configparser.RawConfigParser()
    for place, line in enumerate(_lines(content, 24)):
        section = f"section-{number + place // 6}"
        if not parser.has_section(section):
            parser.add_section(section)
        parser.set(section, f"key{place}", line[:60].replace("\n", " "))
    buffer = io.StringIO()
    parser.write(buffer)
    return buffer.getvalue().encode()


def make_csv(content: bytes, number: int) -> bytes:
    """A CSV table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["id", "size", "first", "last", "text"])
    for place, line in enumerate(_lines(content)):
        writer.writerow([number + place, len(line), line[:1], line[-1:], line[:40]])
    return buffer.getvalue().encode()


def make_html(content: bytes, number: int) -> bytes:
    """An HTML page."""
    items = "\n".join(f"<li>{html.escape(line)}</li>" for line in _lines(content, 30))
    return f"<!DOCTYPE html>\n<html><head><title>{number}</title></head><body>\n<ul>\n{items}\n</ul></body></html>\n".encode()


def make_email(content: bytes, number: int) -> bytes:
    """A mail with an attachment."""
    message = email.message.EmailMessage()
    message["Subject"], message["From"], message["To"] = f"file {number}", "a@example.org", "b@example.org"
    message.set_content("\n".join(_lines(content.decode("ascii", "ignore").encode(), 10)) or "nothing")
    return message.as_bytes()


def make_base64(content: bytes, number: int) -> bytes:
    """Base64 text."""
    return base64.encodebytes(content[number % 7 : 3000])


MAKERS: dict[str, Maker] = {
    "gzip": make_gzip, "tar.gz": make_tar_gz, "bzip2": make_bzip2, "xz": make_xz, "zlib": make_zlib, "tar": make_tar,
    "zip": make_zip, "pickle": make_pickle, "jsonl": make_jsonl, "plist": make_plist, "sqlite": make_sqlite, "sql": make_sql,
    "png": make_png, "wav": make_wav, "ini": make_ini, "csv": make_csv, "html": make_html, "email": make_email,
    "base64": make_base64,
}  # fmt: skip
