"""Child processes end with the command that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

# A command that starts two children as compare does; each writes its number, and at SIGTERM "saved".
CHILD = """
import os, signal, sys, time
from pathlib import Path
from advantageflow.studies.children import end_with_parent
end_with_parent()
def save(number, frame):
    Path(sys.argv[1] + ".saved").touch()
    if sys.argv[2] == "saves":
        sys.exit(130)
signal.signal(signal.SIGTERM, save)
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""
PARENT = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from advantageflow.studies import children
commands = [[sys.executable, "-c", sys.argv[1], f"{sys.argv[2]}/{i}", sys.argv[3]] for i in range(2)]
try:
    with children.ended_by_signals(print), ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(children.run, command, dict(os.environ)) for command in commands]:
            future.result()
except children.StoppedError:
    sys.exit(130)
"""


def alive(pid):
    with suppress(OSError):
        return open(f"/proc/{pid}/stat").read().split(")")[1].split()[0] != "Z"
    return False


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    assert what()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize(
    ("signals", "saves", "code"),
    [
        ([signal.SIGKILL], "saves", -signal.SIGKILL),
        ([signal.SIGTERM], "saves", 130),
        ([signal.SIGINT], "saves", 130),
        ([signal.SIGHUP], "saves", 130),
        ([signal.SIGTERM, signal.SIGTERM], "does not save", None),
    ],
    ids=["killed", "terminated", "interrupted", "hung up", "twice"],
)
def test_children_end_with_their_parent(signals, saves, code, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(tmp_path), saves],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup around the tests switches off
    )
    files = [tmp_path / "0", tmp_path / "1"]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    numbers = [int(file.read_text()) for file in files]
    assert all(map(alive, numbers))
    for number in signals:
        parent.send_signal(number)
        time.sleep(0.3)
    parent.wait(timeout=30)
    wait_for(lambda: not any(map(alive, numbers)))
    saved = [os.path.exists(f"{file}.saved") for file in files]
    assert saved == [signals != [signal.SIGKILL]] * 2
    if code is not None:
        assert parent.returncode == code
