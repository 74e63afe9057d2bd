"""Batches of a SearchStream as requests, and its results in the batches' order."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Optional, Union

from dotmax import _questions
from dotmax._arrays import Message, Rows, wire_rows
from dotmax.errors import Error, from_status
from dotmax.results import SearchResult


class Stream:
    def __init__(self, asked: _questions.Question, ordered: bool):
        self._asked = asked
        self._ordered = ordered
        self._sent = 0
        self._next = 0
        self._early: Dict[int, Union[SearchResult, Error]] = {}
        # What went wrong while batches were taken, which ends them: to be raised after the results of those before.
        self.failure: Optional[BaseException] = None

    def request(self, batch: Rows) -> Message:
        number = self._sent
        self._sent += 1
        rows = wire_rows(batch, f"batches[{number}]")
        return self._asked.about(rows, 0, rows.count, self._asked.version, tag=number)

    def requests(self, batches: Iterable[Rows]) -> Iterator[Message]:
        try:
            for batch in batches:
                yield self.request(batch)
        except Exception as failure:
            self.failure = failure

    def take(self, message: Any) -> List[Union[SearchResult, Error]]:
        """The results that are due now that `message` has come; the tag of an Error is its batch's number, too."""
        result: Union[SearchResult, Error]
        if message.HasField("response"):
            result = _questions.result_of(message.response, self._asked, message.tag)
        else:
            result = from_status(message.status)
            result.tag = message.tag
        if not self._ordered:
            return [result]
        self._early[message.tag] = result
        due = []
        while self._next in self._early:
            due.append(self._early.pop(self._next))
            self._next += 1
        return due
