"""The protocol between parent and child."""

import os
import socket
import threading

from services.shared.sandbox.wire import Kind, Wire


class AnswersBeforeSendReturns(socket.socket):
    """A parent's socket whose request is received and answered before the call that sent it returns."""

    def __init__(self, ours: socket.socket, child: socket.socket) -> None:
        super().__init__(fileno=ours.detach())
        self._child = child

    def sendmsg(self, *arguments: object, **options: object) -> int:
        sent: int = super().sendmsg(*arguments, **options)  # type: ignore[arg-type]
        child = Wire(self._child)
        _, descriptor = child.receive_job()
        assert descriptor is not None
        os.close(descriptor)
        child.send(Kind.RESULT, b"{}")
        self._child.close()
        return sent


def test_a_response_sent_before_the_child_exits_is_received() -> None:
    ours, theirs = socket.socketpair()
    with AnswersBeforeSendReturns(ours, theirs) as connection, open(os.devnull) as file:  # noqa: PTH123
        wire = Wire(connection, 10.0)
        wire.send(Kind.JOB, b"{}", descriptor=file.fileno())

        assert wire.receive() == (Kind.RESULT, b"{}")


def test_a_frame_longer_than_the_buffer_arrives_complete() -> None:
    ours, theirs = socket.socketpair()
    data = os.urandom(2**22)
    with ours, theirs:
        sending = threading.Thread(target=Wire(ours).send, args=(Kind.ITEM, b"{}", data))
        sending.start()
        reader = Wire(theirs)

        assert reader.receive() == (Kind.ITEM, b"{}")
        assert reader.take(len(data)) == data
        sending.join()
