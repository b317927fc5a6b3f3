"""A producer's way to a router actor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import ray

from cdp_ray_sinks.batch.batch import BatchId, Pack
from cdp_ray_sinks.delivery.push import Group, Payload
from cdp_ray_sinks.delivery.router_link import LinkError, OnAnswer, OnSettled
from cdp_ray_sinks.delivery.wire import decode_answer, encode_call, encode_known

BEGIN_TIMEOUT_S = 30.0


class RayRouterLink:
    """Implements `delivery.router_link.RouterLink` over an actor handle."""

    def __init__(self, router: Any) -> None:
        self._router = router

    def put(self, pack: Pack) -> Payload:
        """Copy into the object store; this process owns the object."""
        return ray.put(pack)

    def begin(self, producer: bytes, session: int) -> int:
        """Begin a session; the one in force. Raises LinkError."""
        try:
            began = self._router.begin.remote(producer, session)
            in_force: int = ray.get(began, timeout=BEGIN_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            raise LinkError(str(error)) from None
        return in_force

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        """Send a group; the answer comes in a thread of Ray's."""
        try:
            ref = self._router.route.remote(*encode_call((producer, session, number), group))
        except ray.exceptions.RayError as error:
            raise LinkError(str(error)) from None
        _answer_later(ref, on_answer)

    def settled(self, known: Sequence[tuple[BatchId, int]], on_answer: OnSettled) -> None:
        """Ask about lingering batches."""
        try:
            ref = self._router.settled.remote(encode_known(known))
        except ray.exceptions.RayError as error:
            raise LinkError(str(error)) from None
        _answer_later(ref, on_answer)


def _answer_later(ref: Any, on_answer: Callable[[Any], None]) -> None:
    def deliver(future: Future[bytes]) -> None:
        error = future.exception()
        if error is None:
            on_answer(decode_answer(future.result()))
        else:
            on_answer(LinkError(str(error)))

    ref.future().add_done_callback(deliver)
