"""Batched log lines: none is lost, none out of order."""

import io
import logging

from api.access_log import BatchingHandler


def test_every_line_is_written_in_its_order_by_the_end() -> None:
    stream = io.StringIO()
    handler = BatchingHandler(stream)
    for number in range(1000):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    handler.close()
    assert stream.getvalue().splitlines() == [f"line {number}" for number in range(1000)]
