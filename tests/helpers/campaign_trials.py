"""Trials of the campaign that end a run from outside: SIGKILL, SIGTERM and Ctrl-C. Each returns one JSON object."""

import dataclasses
import random
import re
import shutil
import signal
import time

from helpers import whole_run
from helpers.campaign_compare import differences
from helpers.campaign_run import START, WORK, Moment, Started

FINISH = 600.0  # seconds within which the last run of a trial must end, on a machine that is busy too
SURVIVORS = 130.0  # seconds after which processes that have outlived another one are killed
STOP = 60.0  # seconds after which a run that has received a signal is killed
KILLS = (1, 1, 1, 1, 2, 2, 3)  # kills of a trial
RESTORE = 0.3  # seconds that it takes to restore a checkpoint
COLD = 8  # every so many trials start with an empty compilation cache
BY_TIME = ("log", "compile", "evaluate", "save", "restore", "prepare", "report", "train", "exit", START)
BY_OPERATION = ("prune", "commit", "prepare", "save", "report", "log", "evaluate")
# A message that a run may show after a kill: a compiled program was being written.
HARMLESS = re.compile(r"a compiled program in .* is damaged|is taken over from process|removing .* left behind")
ALARMING = re.compile(r"Traceback|damaged|[Ww]arning|error")


class Campaign:
    """What the trials share: the folder, the seed, and an uninterrupted run in one and in two processes.

    Args:
        scratch: folder for everything that is written; kept between calls.
        seed: of the moments.
    """

    def __init__(self, scratch, seed):
        self.scratch, self.seed = scratch.resolve(), seed
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.cache = self.scratch / "cache"
        self._profiles = {}

    def reference(self, processes=1):
        """The folder of an uninterrupted run, the first to fill the compilation cache."""
        folder = self.scratch / f"reference{processes}"
        if not (folder / "complete").exists():
            self._complete(self.folder(folder.name), processes)
            (folder / "complete").touch()
        return folder

    def profile(self, processes=1):
        """By phase, the seconds and the file operations of each of its occurrences in an uninterrupted run.

        This run is a second one, with a full compilation cache, and must equal the first.
        """
        if processes not in self._profiles:
            reference, folder = self.reference(processes), self.folder(f"profile{processes}")
            self._profiles[processes] = self._complete(folder, processes).traces[0].occurrences()
            assert not (found := differences(folder, reference)), found
            shutil.rmtree(folder)
        return self._profiles[processes]

    def _complete(self, folder, processes):
        started = Started(folder, self.cache, processes)
        started.wait(FINISH)
        assert not any(started.returncodes()), started.read_errors()
        return started

    def folder(self, name):
        """An empty folder."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def rng(self, kind, number):
        return random.Random(f"{self.seed} {kind} {number}")

    def moments(self, processes):
        """The kinds of moments that trials take in turn: a phase, and whether at a file operation."""
        by_time = [(phase, False) for phase in BY_TIME if phase in self.profile(processes)]
        by_operation = [(phase, True) for phase in BY_OPERATION if any(n for _, n in self.profile(processes)[phase])]
        return [*by_time, *by_operation]

    def draw(self, rng, phase, processes, *, by_operation):
        """Draws a moment within a phase."""
        occurrences = list(enumerate(self.profile(processes)[phase], start=1))
        if by_operation:
            number, (_, operations) = rng.choice([each for each in occurrences if each[1][1]])
            return Moment(phase, number, operation=rng.randint(1, operations))
        number, (seconds, _) = rng.choice(occurrences)
        if phase == "restore":  # the uninterrupted run finds nothing to restore
            seconds = RESTORE
        return Moment(phase, number, delay=rng.uniform(0, max(seconds, 0.01)))


def kill(campaign, number, processes=1):
    """SIGKILL at one or several random moments, then the same command until it completes."""
    kind = f"kill{processes}"
    rng, folder = campaign.rng(kind, number), campaign.folder(f"{kind}.{number}")
    cold = number % COLD == COLD - 1
    cache, workers = folder / "cache" if cold else campaign.cache, rng.choice((1, 1, 2))
    kinds, hits = campaign.moments(processes), []
    planned = [kinds[number % len(kinds)], *rng.choices(kinds, k=rng.choice(KILLS) - 1)]
    if planned[0][0] == "restore":  # there is something to restore only after another kill
        planned.insert(0, ("save", False))
    for attempt, (phase, by_operation) in enumerate(planned):
        victims = [0] if processes == 1 else [[0], [1], [0, 1]][(number + attempt) % 3]
        by_operation = by_operation and 0 in victims
        moment = campaign.draw(rng, phase, processes, by_operation=by_operation)
        started = Started(folder, cache, processes, kill=moment if by_operation else None, workers=workers)
        if not started.wait_until(dataclasses.replace(moment, delay=FINISH) if by_operation else moment):
            break  # complete: the moment does not occur in what was left of the run
        for victim in victims:
            started.send(signal.SIGKILL, victim, group=True)
        seconds = started.wait(SURVIVORS)
        codes = started.returncodes()
        if not any(codes):
            break
        hit = started.traces[victims[0]].hit()
        survivors = [_last_line(started, i) for i in range(processes) if i not in victims]
        hits.append({"moment": dataclasses.asdict(moment), "victims": victims, "hit": hit, "codes": codes})
        hits[-1] |= {"active": started.traces[victims[0]].active(), "seconds": seconds, "survivors": survivors}
    faults = finish(campaign, folder, cache, processes, workers)
    return {"cold": cold, "workers": workers, "kills": hits, "faults": faults}


def stop(campaign, number, processes=1):
    """SIGTERM or Ctrl-C at a random moment, then the same command."""
    kind = f"stop{processes}"
    rng, folder = campaign.rng(kind, number), campaign.folder(f"{kind}.{number}")
    cold = number % COLD == COLD - 1
    cache = folder / "cache" if cold else campaign.cache
    kinds = [phase for phase in (*BY_TIME, "train", "train") if phase in campaign.profile(processes)]
    moment = campaign.draw(rng, kinds[number % len(kinds)], processes, by_operation=False)
    signum = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)[number % 3]
    targets = [0] if processes == 1 else [[0], [1], [0, 1]][rng.randrange(3)]
    started = Started(folder, cache, processes)
    was_running = started.wait_until(moment)
    hit = started.traces[0].hit()
    for target in targets:
        started.send(signum, target, group=signum == signal.SIGINT)
    seconds = started.wait(STOP)
    codes, ended_in = started.returncodes(), started.traces[0].hit()
    messages = [_last_line(started, i) for i in range(processes)]
    faults = [f"process {i}: Traceback" for i in range(processes) if "Traceback" in started.read_errors(i)]
    if seconds is None:
        faults.append(f"has not ended within {STOP:.0f} s")
    expected = {128 + signum} | ({0} if ended_in in ("exit", "report") else set())
    if ended_in in ("exit", START):  # Python handles it itself, and a shell reports 128 + its number
        expected.add(-signum)
    if ended_in == START:  # the interpreter starts: Python's own handlers
        expected.add(1)
        faults = []
    if processes > 1:
        expected |= {128 + signal.SIGTERM}
    if was_running and not set(codes) <= expected:
        faults.append(f"exit codes {codes}, expected {sorted(expected)}")
    faults += finish(campaign, folder, cache, processes)
    record = {"cold": cold, "moment": dataclasses.asdict(moment), "signal": signal.Signals(signum).name}
    record |= {"targets": targets, "hit": hit, "codes": codes, "seconds": seconds, "messages": messages}
    return record | {"faults": faults}


def finish(campaign, folder, cache, processes=1, workers=1, output=None):
    """Runs the same command to its end; returns what differs from the uninterrupted run, and unexpected messages."""
    steps = whole_run.checkpoint_steps(folder / WORK)
    started = Started(folder, cache, processes, workers=workers, output=output)
    began = time.monotonic()
    ended = started.wait(FINISH)
    errors = "\n".join(started.read_errors(i) for i in range(processes))
    if any(started.returncodes()) or ended is None:
        return [f"the last run ended with {started.returncodes()} after {time.monotonic() - began:.0f} s: {errors}"]
    shown = [f"the last run showed: {line}" for line in alarms(errors)]
    if steps and f"resuming from step {steps[-1]} of" not in errors:
        shown.append(f"the last run did not resume from step {steps[-1]}")
    return [*shown, *differences(folder, campaign.reference(processes))]


def alarms(errors):
    """The lines of stderr that report that something is wrong."""
    lines = [re.sub(r"[a-z]+/\w+_error", "", line) for line in errors.splitlines()]  # names of metrics
    return [line for line in lines if ALARMING.search(line) and not HARMLESS.search(line)]


def _last_line(started, process):
    lines = started.read_errors(process).strip().splitlines()
    return lines[-1][-300:] if lines else ""
