"""Long waits say what they wait for, also in a run of one process."""

import subprocess
import sys
import threading
import time

from mtan_jax.runtime import activity, lock

WAIT = """
import logging, sys, time, pathlib
from mtan_jax.runtime import activity, lock
logging.basicConfig(format="%(message)s", level=logging.WARNING)
activity.SECONDS_BETWEEN_REPORTS, activity.SECONDS_BETWEEN_LOOKS = 0.5, 0.1
with lock.hold(pathlib.Path(sys.argv[1]), "the preparation of streets", wait=True):
    pass
"""


def test_a_wait_for_a_lock_is_reported_repeatedly(tmp_path):
    with lock.hold(tmp_path / "lock", "the preparation of streets", wait=True):
        waiting = subprocess.Popen([sys.executable, "-c", WAIT, tmp_path / "lock"], stderr=subprocess.PIPE, text=True)
        lines = [waiting.stderr.readline() for _ in range(2)]
    assert waiting.communicate(timeout=60)[1].count("\n") <= 1
    for line in lines:
        assert line.startswith("waiting for the preparation of streets, in use by process ")
        assert line.endswith(" s)\n")


def test_reports_are_due_once_a_minute_and_again_for_the_next_wait():
    reports = activity.Reports()
    seconds = [0, 59, 60, 61, 119, 125, 180, 3, 59, 70]
    assert [second for second in seconds if reports.is_due(second)] == [60, 125, 180, 70]


def test_activities_are_nested_and_those_of_other_threads_are_ignored(monkeypatch):
    monkeypatch.setattr(activity, "_current", activity.Activity("running step 1", "together", 0.0, None))
    with activity.doing("saving"):
        found = activity.current()
        assert (found.text, found.kind, found.limit) == ("saving", "work", activity.HUNG_AFTER)
        thread = threading.Thread(target=activity.note, args=("running step 2",))
        thread.start()
        thread.join()
        assert activity.current() is found
    now = activity.current()
    assert now.text == "running step 1"
    assert time.monotonic() - now.since < 60  # not since the step began
    activity.note("running step 2")
    assert activity.current().text == "running step 2"
