"""Changes to a file's bytes, or to what they say, drawn from a seeded generator. benchmarks/mutants.py tries them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Draw = np.random.Generator
Change = Callable[[Draw, bytes], bytes]
DEEP = 2000  # brackets in brackets


def pick(draw: Draw, options: Any) -> Any:
    options = list(options)
    return options[int(draw.integers(len(options)))]


# bytes ------------------------------------------------------------------------------------------------


def _place(draw: Draw, content: bytes, longest: int) -> slice:
    """A range; half of them lie within the first or last five hundred bytes, where formats say what they are."""
    size = len(content)
    start = int(draw.integers(size))
    if draw.random() < 0.5:
        start = min(int(draw.integers(500)), size - 1)
        start = size - 1 - start if draw.random() < 0.5 else start
    return slice(start, min(size, start + 1 + int(draw.integers(longest))))


def _flipped(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(draw.integers(1, 5))):
        changed[_place(draw, content, 1).start] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _set(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(draw.integers(1, 4))):
        changed[_place(draw, content, 1).start] = pick(
            draw, (0, 255, 127, 128, 10, 34, 44, 48, 123)
        )
    return bytes(changed)


def _overwritten(draw: Draw, content: bytes) -> bytes:
    where = _place(draw, content, 64)
    size = where.stop - where.start
    filled = draw.bytes(size) if draw.random() < 0.5 else bytes([pick(draw, (0, 255))]) * size
    return content[: where.start] + filled + content[where.stop :]


def _removed(draw: Draw, content: bytes) -> bytes:
    where = _place(draw, content, 64)
    return content[: where.start] + content[where.stop :]


def _doubled(draw: Draw, content: bytes) -> bytes:
    where = _place(draw, content, 512)
    return content[: where.stop] + content[where] + content[where.stop :]


def _inserted(draw: Draw, content: bytes) -> bytes:
    where = _place(draw, content, 1).start
    return content[:where] + draw.bytes(int(draw.integers(1, 16))) + content[where:]


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: int(draw.integers(len(content)))]


def _swapped(draw: Draw, content: bytes) -> bytes:
    one, other = sorted((_place(draw, content, 32) for _ in range(2)), key=lambda each: each.start)
    if one.stop > other.start:
        return _flipped(draw, content)
    between = content[one.stop : other.start]
    return content[: one.start] + content[other] + between + content[one] + content[other.stop :]


_BYTES = (
    _flipped,
    _flipped,
    _flipped,
    _set,
    _set,
    _overwritten,
    _removed,
    _doubled,
    _inserted,
    _cut,
    _swapped,
)


def bytes_changed(draw: Draw, content: bytes) -> bytes:
    return pick(draw, _BYTES)(draw, content)


# JSON -------------------------------------------------------------------------------------------------

_DEEP_MARK = "\u2603 brackets in brackets"
_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, -0.0, 2.5, 20_000, 10**6, 2**31, 2**63, 10**400),
    *(1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "NaN", "None", "x" * 5000, "\u0000", "../../x", "\ud800", _DEEP_MARK),
    *([], {}, [[]], [None], [1, 2, 3], {"": None}, {"class_name": "LSTM"}, [float("nan")] * 3),
)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with a key of it."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def tree_changed(draw: Draw, tree: Any) -> Any:
    """The tree, changed in its place, with one to three of its values other than they were."""
    for _ in range(int(draw.choice([1, 1, 1, 2, 3]))):
        places = list(_places(tree))
        if not places:
            return pick(draw, _ODD)
        holder, key = pick(draw, places)
        value = holder[key]
        match int(draw.integers(6)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, value)
            case 2 if isinstance(value, int | float) and not isinstance(value, bool):
                holder[key] = pick(draw, (-value, value + 1, value - 1, value * 1000, str(value)))
            case 3:
                other, there = pick(draw, places)
                holder[key] = json.loads(json.dumps(other[there])) if there in _keys(other) else 0
            case _:
                holder[key] = pick(draw, _ODD)
    return tree


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def as_text(tree: Any) -> bytes:
    text = json.dumps(tree).replace(json.dumps(_DEEP_MARK), "[" * DEEP + "]" * DEEP)
    return text.encode("utf-8", "surrogatepass")


def json_changed(draw: Draw, content: bytes) -> bytes:
    return as_text(tree_changed(draw, json.loads(content)))


def description_changed(draw: Draw, content: bytes) -> bytes:
    """A model.json that says something else, with the checksum that it should have."""
    tree = tree_changed(draw, json.loads(content))
    if isinstance(tree, dict) and "checksum" in tree:
        rest = {name: value for name, value in tree.items() if name != "checksum"}
        tree["checksum"] = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    return as_text(tree)


# formats ----------------------------------------------------------------------------------------------


def safetensors_changed(draw: Draw, content: bytes) -> bytes:
    """Its header, or a tensor's numbers."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    if draw.random() < 0.5 and data:
        return content[: 8 + length] + _numbers_changed(draw, data)
    tree = json.loads(header)
    texts = tree.get("__metadata__", {})
    if draw.random() < 0.5 and texts:  # metadata is text, at times JSON again
        name = pick(draw, texts)
        try:
            texts[name] = as_text(tree_changed(draw, json.loads(texts[name]))).decode()
        except (ValueError, UnicodeDecodeError):
            texts[name] = pick(draw, ("", "x", texts[name][:-1]))
    else:
        tree = tree_changed(draw, tree)
    text = as_text(tree)
    return struct.pack("<Q", len(text)) + text + data


def _numbers_changed(draw: Draw, data: bytes) -> bytes:
    changed = bytearray(data)
    at = int(draw.integers(max(len(data) // 4, 1))) * 4
    values = (0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-42, float(draw.normal()))
    changed[at : at + 4] = struct.pack("<f", pick(draw, values))
    return bytes(changed[: len(data)])


def checkpoint_changed(draw: Draw, content: bytes) -> bytes:
    """A checkpoint's tree or one of its tensors, with the checksum that they should have."""
    import torch
    from safetensors.torch import load, save

    (length,) = struct.unpack("<Q", content[:8])
    texts, tensors = json.loads(content[8 : 8 + length])["__metadata__"], load(content)
    if draw.random() < 0.7:
        texts["tree"] = as_text(tree_changed(draw, json.loads(texts["tree"]))).decode()
    else:
        name = pick(draw, sorted(tensors))
        values = (tensors[name][None], tensors[name].double(), tensors[name] * float("nan"))
        tensors[name] = pick(draw, (*values, tensors[name] + 1)).contiguous()
    if "sha256" in texts:
        found = hashlib.sha256(texts["tree"].encode())
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        texts["sha256"] = found.hexdigest()
    return bytes(save(tensors, texts))


def message_changed(draw: Draw, message: Any) -> None:
    """A protobuf message with one field other than it was."""
    fields = list(_fields(message))
    holder, field = pick(draw, fields)
    if field.is_repeated:
        _repeated_changed(draw, getattr(holder, field.name))
    elif field.message_type is not None or draw.random() < 0.15:
        holder.ClearField(field.name)
    else:
        value = getattr(holder, field.name)
        for new in (_odd_like(draw, value), type(value)()):
            try:
                setattr(holder, field.name, new)
                return
            except ValueError:  # out of the field's range
                continue


def _repeated_changed(draw: Draw, values: Any) -> None:
    at = int(draw.integers(len(values)))
    match int(draw.integers(4)):
        case 0:
            del values[at]
        case 1:
            values.append(values[at])
        case 2 if not hasattr(values[at], "DESCRIPTOR"):
            try:
                values[at] = _odd_like(draw, values[at])
            except ValueError:
                values[at] = type(values[at])()
        case _:
            kept = list(values)
            draw.shuffle(kept)
            del values[:]
            values.extend(kept)


def _odd_like(draw: Draw, value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            odd = (0, 1, -1, 2, 3, 7, 17, 127, 2**20, 2**31 - 1, 2**40, 2**62, -(2**62), value + 1)
            return pick(draw, odd)
        case float():
            return pick(draw, (0.0, -1.0, 1e30, float("nan"), float("inf"), value * 2))
        case bytes():
            return pick(draw, (b"", b"x", value[:-1], value + b"\x00", bytes(len(value)), b"relu"))
    return pick(draw, ("", "x", "W", "R", "LSTM", "GRU", value + "'", "\u2603"))


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                yield from _fields(each)


def onnx_changed(draw: Draw, content: bytes) -> bytes:
    import onnx

    model = onnx.load_model_from_string(content)
    for _ in range(int(draw.choice([1, 1, 2]))):
        message_changed(draw, model)
    return bytes(model.SerializeToString())


def archive_changed(draw: Draw, content: bytes) -> bytes:
    """A zip archive written anew, with right checksums, with one member changed or gone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = pick(draw, members)
    if draw.random() < 0.05:
        del members[name]
    else:
        change = {"json": json_changed, "h5": hdf5_changed}[name.rsplit(".")[-1]]
        members[name] = change(draw, members[name])
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", pick(draw, (0, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return memory.getvalue()


def hdf5_changed(draw: Draw, content: bytes) -> bytes:
    """An attribute, an array or a group other than it was; or bytes."""
    import h5py

    if draw.random() < 0.5:
        return bytes_changed(draw, content)
    memory = io.BytesIO(content)
    with h5py.File(memory, "r+") as file:
        objects: list[Any] = [file]
        file.visititems(lambda name, each: objects.append(each))
        attributes = [(each, name) for each in objects for name in each.attrs]
        if attributes and draw.random() < 0.5:
            holder, name = pick(draw, attributes)
            _attribute_changed(draw, holder, name)
        else:
            _object_changed(draw, file, pick(draw, objects[1:]))
    return memory.getvalue()


def _attribute_changed(draw: Draw, holder: Any, name: str) -> None:
    value = holder.attrs[name]
    text = value.decode() if isinstance(value, bytes) else str(value)
    if text.startswith("{") and draw.random() < 0.8:
        holder.attrs[name] = json_changed(draw, text.encode()).replace(b"\x00", b"?")
    elif draw.random() < 0.3:
        del holder.attrs[name]
    else:
        holder.attrs[name] = pick(draw, (0, -1, 2.5, "", "x", np.zeros(3), [b"a", b"b"]))


def _object_changed(draw: Draw, file: Any, each: Any) -> None:
    import h5py

    name = each.name
    if isinstance(each, h5py.Group) or draw.random() < 0.2:
        del file[name]
        if draw.random() < 0.5:
            file[name] = pick(draw, (h5py.SoftLink("/x"), h5py.ExternalLink("x", "/"), 1.0))
        return
    values = np.array(each)
    del file[name]
    shapes = (values.T, values[:-1], values.ravel(), values[None]) if values.ndim else (values,)
    types = (values.astype("f2"), values.astype("i4"), values * np.nan, values.astype("S4"))
    file[name] = pick(draw, (*shapes, *types, values + 1))


# tables -----------------------------------------------------------------------------------------------

_CELLS = (
    *(
        "",
        "NA",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e308",
        "-1",
        "0",
        "x",
        "1,5",
        '"',
        '"a\nb"',
        " 7 ",
    ),
    *(
        "2024-13-45",
        "2024-01-01 00:00",
        "99999999999999999999",
        "\u0661",
        "\r",
        "\x00",
        "true",
        "0x10",
    ),
)


def csv_changed(draw: Draw, content: bytes) -> bytes:
    lines = content.decode().split("\n")
    rows = [line.split(",") for line in lines]
    row = 0 if draw.random() < 0.2 else int(draw.integers(len(rows)))
    column = int(draw.integers(len(rows[row])))
    match int(draw.integers(7)):
        case 0:
            del rows[row]
        case 1:
            rows.insert(row, list(pick(draw, rows)))
        case 2:
            rows = [[*each[:column], *each[column + 1 :]] for each in rows]
        case 3:
            rows = [[*each[: column + 1], *each[column:]] for each in rows]
        case 4:
            value = pick(draw, _CELLS)
            rows = [[*each[:column], value, *each[column + 1 :]] for each in rows]
        case _:
            rows[row][column] = pick(draw, _CELLS)
    changed = pick(draw, ("\n", "\n", "\n", "\r\n", "\r")).join(",".join(each) for each in rows)
    return changed.encode(pick(draw, ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))


def gzip_changed(draw: Draw, content: bytes) -> bytes:
    """Packed anew, with a right checksum."""
    return gzip.compress(csv_changed(draw, gzip.decompress(content)), mtime=0)


def parquet_changed(draw: Draw, content: bytes) -> bytes:
    """Written anew with a column of another type, or with other values; as it was where polars can't."""
    import polars as pl

    memory = io.BytesIO()
    try:
        frame = _frame_changed(draw, pl.read_parquet(io.BytesIO(content)))
        frame.write_parquet(memory, compression=pick(draw, ("zstd", "snappy", "uncompressed")))
    except pl.exceptions.PolarsError:
        return content
    return memory.getvalue()


def _frame_changed(draw: Draw, frame: Any) -> Any:
    import polars as pl

    name = pick(draw, frame.columns)
    row = int(draw.integers(len(frame)))
    types = (
        pl.String,
        pl.Int8,
        pl.Float32,
        pl.Boolean,
        pl.Categorical,
        pl.Date,
        pl.Binary,
        pl.Time,
    )
    values = (None, float("nan"), float("inf"), 1e308, -1, "x", True, [1, 2], {"a": 1}, b"\x00")
    match int(draw.integers(6)):
        case 0:
            return frame.drop(name)
        case 1:
            return frame.with_columns(pl.col(name).cast(pick(draw, types), strict=False))
        case 2:
            constant = pl.Series(name, [pick(draw, values)] * len(frame))
            return frame.with_columns(constant)
        case 3:
            odd = pick(draw, (None, float("nan"), float("inf"), 1e308, -1.0))
            odd = pl.when(pl.int_range(pl.len()) == row).then(odd).otherwise(pl.col(name))
            return frame.with_columns(odd.alias(name))
        case 4:
            return frame.rename({name: pick(draw, ("", "x", "q0.5", "forecast"))})
    return pick(draw, (frame[:row], frame[row:], frame.reverse(), pl.concat([frame] * 2)))
