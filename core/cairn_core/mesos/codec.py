"""The one door between bytes and messages.

JSON follows the mapping of the original: unknown fields are ignored, `null` means unset, numbers
and booleans may come as strings, bytes are base64, required fields must be there. Protobuf is a
second media type that can be added here without touching a caller.
"""

from typing import Any, TypeVar

import msgspec

from cairn_core.errors import RemoteError

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


class DecodeError(RemoteError):
    """The bytes are not such a message. `problem` names the field, for instance `$.task_id`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class UnsupportedMediaType(RemoteError):
    """The media type is not one that this API speaks."""


def encode(message: Any, media_type: str = JSON) -> bytes:
    """Encode a message. Raises UnsupportedMediaType."""
    if media_type != JSON:
        raise UnsupportedMediaType(f"cannot encode as '{media_type}', only '{JSON}'")
    return _encoder.encode(message)


def decode(kind: type[T], body: bytes | memoryview, media_type: str = JSON) -> T:
    """Decode a message of a type.

    Raises DecodeError where the bytes are not such a message, UnsupportedMediaType where the
    media type is not spoken.
    """
    if media_type != JSON:
        raise UnsupportedMediaType(f"cannot decode '{media_type}', only '{JSON}'")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)
    try:
        message: T = decoder.decode(body)
        return message
    except msgspec.ValidationError as error:
        problem = str(error)
        if b"null" not in bytes(body):
            raise DecodeError(problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"malformed JSON: {error}") from None
    # A `null` where a repeated field or a default stands: take it out and try once more.
    try:
        return msgspec.convert(without_nulls(msgspec.json.decode(body)), kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # also malformed: behind the place where the first attempt gave up
        raise DecodeError(str(error)) from None


def without_nulls(value: Any) -> Any:
    """The same JSON value without members that are `null`."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value
