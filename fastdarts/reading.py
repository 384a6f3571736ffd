"""One door for files and one strict reader of JSON: whatever a stranger's file is, it ends as a value or as one line.

A file is a regular file of a bounded size, or refused: a FIFO does not hang, a folder, a device or a missing file is
named. JSON is UTF-8, nested and numbered within bounds, and its values have the types that a schema says.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastdarts.errors import UserError

__all__ = [
    "LIMIT",
    "conform",
    "content",
    "kind_of",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "storage_errors",
]

# Bytes of a text or of a JSON document; the largest that is written, a table of 20,000 networks, has 8 million.
LIMIT = 16 << 20
# Values of a document: half a million empty lists take 32 MB of memory, what a table has of them 60 MB.
_MOST_VALUES = 500_000
_DEEPEST = 64
# A double holds every integer of 308 digits.
_MOST_DIGITS = 300
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MOST_DIGITS + 1}}}")
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_STRINGS = re.compile(_STRING, re.DOTALL)
_TOKEN = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device"}


@contextmanager
def storage_errors(
    path: str | os.PathLike[str], then: Callable[[], str] = str, *, doing: str = "write"
) -> Iterator[None]:
    """Turn an `OSError` of the block into one line that names the path and the remedy.

    Args:
        path: what was being used; the error's own file name wins where it has one.
        then: says what to do once the cause is removed.
        doing: "write" or "read".

    Raises:
        UserError: for any `OSError` inside the block, and for a name that no file can have.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some disk space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            other = "make the folder writable or choose another one"
            remedy = "make it readable, or ask who owns it" if doing == "read" else other
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "close other files or programs, or raise the limit (ulimit -n)"
        else:
            remedy = "check the disk and the path"
        follow = then()
        remedy = f"{remedy}, {follow}" if follow else remedy
        what = f"cannot {doing} {error.filename or path}: {error.strerror or error}"
        raise UserError(what, remedy=remedy) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UserError(f"{os.fspath(path)!r} is no path: it holds a null character", "the path of a file") from error


def kind_of(path: str | os.PathLike[str]) -> str:
    """`folder`, `file`, `other` (a FIFO, a device, ...) or "" where nothing is, or nothing can be by that name.

    Raises:
        UserError: where the system does not let it be known.
    """
    with storage_errors(path, doing="read"):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                return ""
            raise
        except ValueError:
            return ""
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, follow: bool = True) -> int:
    """A file descriptor of a regular file; nothing hangs, whatever else is there.

    Args:
        path: the file.
        flags: as of `os.open`, without O_CREAT.
        follow: whether its last part may be a link.

    Raises:
        UserError: if it is no regular file, or a link that must not be followed.
        OSError: what the system said.
    """
    extra = 0 if follow else os.O_NOFOLLOW
    try:
        # Without O_NONBLOCK a FIFO waits for its other end.
        fd = os.open(path, flags | extra | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not follow and error.errno == errno.ELOOP:
            raise UserError(f"{os.fspath(path)} is a link", "a file", "put the file itself in its place") from error
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise UserError(f"{os.fspath(path)} is no regular file", "a file") from error
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise UserError(f"{os.fspath(path)} is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}", "a file")
    return fd


def read_bytes(path: str | os.PathLike[str], *, limit: int = LIMIT, follow: bool = True) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Args:
        path: the file.
        limit: in bytes.
        follow: whether its last part may be a link.

    Raises:
        UserError: if it cannot be read, is no regular file, or is larger.
    """
    with storage_errors(path, doing="read"):
        return content(path, limit=limit, follow=follow)


def content(path: str | os.PathLike[str], *, limit: int = LIMIT, follow: bool = True) -> bytes:
    """As :func:`read_bytes`, for who tells an `OSError` in words of their own."""
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Before it is read: a sparse file has any size.
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise UserError(f"{os.fspath(path)} has {max(size, len(data))} bytes", f"at most {limit}")
    return data


def read_text(path: str | os.PathLike[str], *, limit: int = LIMIT, follow: bool = True) -> str:
    """The text of a UTF-8 file; line ends are as in the file's bytes, but for `\\r\\n`, which becomes `\\n`.

    Raises:
        UserError: as :func:`read_bytes`, and for what is no UTF-8.
    """
    data = read_bytes(path, limit=limit, follow=follow)
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{os.fspath(path)} cannot be read as text: {error}", "a text file in UTF-8") from error


def read_json(
    path: str | os.PathLike[str], *, limit: int = LIMIT, follow: bool = True, values: int = _MOST_VALUES
) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: as :func:`read_bytes` and :func:`parse_json`.
    """
    return parse_json(read_bytes(path, limit=limit, follow=follow), os.fspath(path), values)


def parse_json(data: bytes | str, where: str, values: int = _MOST_VALUES) -> Any:
    """The value of a JSON text, with `NaN` and `Infinity` as Python writes them.

    Args:
        data: the text, in UTF-8 where it is bytes.
        where: what to call it in an error.
        values: how many it may hold.

    Raises:
        UserError: for what is no JSON, is nested more than 64 deep, has more values, or an integer of more than 300
            digits, which no float holds.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no JSON: {error}", "JSON in UTF-8") from error
    # Texts hold commas and brackets too, and are looked at only where those could matter.
    if text.count(",") >= values and (found := _STRINGS.sub("", text).count(",") + 1) > values:
        raise UserError(f"{where} holds {found} values", f"at most {values}")
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(text, where)
    try:
        return json.loads(text, parse_int=_integer) if _LONG_NUMBER.search(text) else json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}", error.args[1] if len(error.args) > 1 else "") from error


def _integer(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > _MOST_DIGITS:
        raise ValueError(f"an integer of {digits} digits", f"at most {_MOST_DIGITS} digits")
    return int(text)


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth > _DEEPEST:
            raise UserError(f"{where} is nested more than {_DEEPEST} deep", f"at most {_DEEPEST}")


def conform(value: Any, schema: Any, where: str, path: str = "") -> Any:
    """The value itself, if it is of the schema's types.

    A schema is a type (`int` takes no bool, `float` takes integers, `dict` and `list` take any content, `object`
    anything, `None` null), a tuple of schemas, `[schema]` for a list of such, `{str: schema}` for an object of such, or
    `{"name": schema, ...}` for an object whose members, where there, are such; a name that ends in "!" must be there.
    Other members pass.

    Args:
        value: what JSON made.
        schema: see above.
        where: the file, for the error.
        path: of the value inside it.

    Raises:
        UserError: naming the first value of another type.
    """
    if isinstance(schema, tuple):
        if not any(_fits(value, each) for each in schema):
            raise _other(value, schema, where, path)
        schema = next(each for each in schema if _fits(value, each))
    if not _fits(value, schema):
        raise _other(value, schema, where, path)
    if isinstance(schema, list):
        for place, each in enumerate(value):
            conform(each, schema[0], where, f"{path}[{place}]")
    elif isinstance(schema, Mapping):
        inside = schema.get(str)
        for name, each in value.items() if inside is not None else ():
            conform(each, inside, where, f"{path}.{name}" if path else name)
        for name, each in schema.items() if inside is None else ():
            key = name.removesuffix("!")
            if key in value:
                conform(value[key], each, where, f"{path}.{key}" if path else key)
            elif key != name:
                raise UserError(f"{where} has no {path + '.' if path else ''}{key}", _say(each))
    return value


def _fits(value: Any, schema: Any) -> bool:
    """Whether the outermost type is right."""
    if schema is None:
        return value is None
    if isinstance(schema, list):
        return isinstance(value, list)
    if isinstance(schema, Mapping):
        return isinstance(value, dict)
    if schema is int:
        return type(value) is int
    if schema is float:
        # A long integer is no float's: parse_json lets none through that is too long.
        return type(value) in (float, int)
    return isinstance(value, schema)


def _other(value: Any, schema: Any, where: str, path: str) -> UserError:
    shown = repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return UserError(f"{where}: {path or 'its content'} is {shown}", _say(schema))


def _say(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_say, schema))
    if isinstance(schema, list):
        return "a list"
    if isinstance(schema, Mapping) or schema is dict:
        return "a JSON object"
    if schema is object:
        return "any value"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}
    return "null" if schema is None else names[schema]
