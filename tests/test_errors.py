"""Errors cross process borders without losing what they say."""

from __future__ import annotations

import inspect
import pickle

import pytest

from cdp_ray_sinks import errors

SAMPLES: dict[str, tuple[object, ...]] = {
    "TransientError": ("server busy", 250),
    "PartialWriteError": ((b"p" * 16, 1, 2), (0, 3), ("bad json", "bad id")),
    "PartialFlushError": (((7, "no space left"),),),
    "RefusedMessagesError": ((((b"p" * 16, 1, 2), 0, 3, "bad json"),),),
    "MalformedMessageError": ("vector runs past the end", 17),
    "CorruptSegmentError": ("/data/data.bin", 4096, "checksum does not hold"),
    "DrainTimeoutError": ("3 batches unsettled", 3),
}
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.CdpError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[errors.CdpError]) -> None:
    """Type, text, arguments and every field are the same on the other side."""
    error = kind(*SAMPLES.get(kind.__name__, ("what happened",)))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) != ""
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_every_error_has_the_same_root() -> None:
    """One except clause is enough for whoever wants them all."""
    raised = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    ]
    assert raised
    assert all(issubclass(found, errors.CdpError) for found in raised)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.TransientError("server busy", 250), "server busy"),
        (errors.MalformedMessageError("no root", 4), "no root at byte 4"),
        (errors.CorruptSegmentError("a.bin", 9, "torn"), "a.bin: torn at byte 9"),
        (errors.PartialFlushError(((7, "full"),)), "workspace 7: full"),
        (errors.PartialWriteError((b"", 0, 0), (1, 2), ("x", "y")), "2 messages refused: x; y"),
        (errors.RefusedMessagesError((((b"", 0, 0), 1, 2, "x"),)), "1 entries refused: x"),
    ],
)
def test_an_error_says_what_and_where(error: errors.CdpError, text: str) -> None:
    """The text is for people, whole and without the tuple of arguments."""
    assert str(error) == text
