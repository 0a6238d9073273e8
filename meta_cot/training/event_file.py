# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files, as far as scalars need them.

A file is a sequence of TFRecords: length (8 bytes), its checksum (4), data,
its checksum (4), all little-endian. The data is a protocol buffer `Event`
(tensorflow/core/util/event.proto): wall_time = 1, step = 2, file_version = 3,
summary = 5; a summary holds values = 1 with tag = 1, simple_value = 2.
Writing these few fields here spares an import of two seconds.
"""

from collections.abc import Mapping
import struct

import numpy as np

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types


def _table() -> tuple[int, ...]:
  table = []
  for value in range(256):
    for _ in range(8):
      value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return tuple(table)


_TABLE = _table()


def header(wall_time: float) -> bytes:
  """How a file begins; `wall_time` is in seconds since 1970."""
  return _event(wall_time, _text(3, b'brain.Event:2'))


def scalars(
    step: int, values: Mapping[str, float], wall_time: float) -> bytes:
  """One event with a scalar for every name; appended to a file."""
  summary = b''.join(
      _text(1, _text(1, name.encode()) + _field(2, _FLOAT, _single(value)))
      for name, value in values.items())
  return _event(
      wall_time, _field(2, _VARINT, _varint(step)) + _text(5, summary))


def crc32c(data: bytes) -> int:
  """CRC-32 with the Castagnoli polynomial (RFC 3720, appendix B.4)."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
  return crc ^ 0xFFFFFFFF


def _event(wall_time: float, fields: bytes) -> bytes:
  data = _field(1, _DOUBLE, struct.pack('<d', wall_time)) + fields
  length = struct.pack('<Q', len(data))
  return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
  """Rotated and shifted, as TFRecord wants it."""
  crc = crc32c(data)
  rotated = (crc >> 15 | crc << 17) + 0xA282EAD8
  return struct.pack('<I', rotated & 0xFFFFFFFF)


def _field(number: int, wire_type: int, payload: bytes) -> bytes:
  return _varint(number << 3 | wire_type) + payload


def _text(number: int, payload: bytes) -> bytes:
  return _field(number, _BYTES, _varint(len(payload)) + payload)


def _single(value: float) -> bytes:
  with np.errstate(over='ignore'):  # finite, but not in single precision
    return np.array(value, '<f4').tobytes()


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)
