import os
import signal
import threading

import pytest

from fcnseg.training.signals import StopWish

needs_posix = pytest.mark.skipif(os.name != "posix", reason="os.kill ends the process elsewhere")


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopWish() as stop:
        assert not stop.wished
        os.kill(os.getpid(), number)
        assert stop.wished
    assert signal.getsignal(number) == before


@needs_posix
def test_the_second_ctrl_c_stops_at_once() -> None:
    with StopWish() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.wished
        os.kill(os.getpid(), signal.SIGTERM)  # nothing more to wish


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopWish() as stop:
            seen.append((stop.wished, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
