"""Trials of the campaign with damaged files."""

import re
import shutil

from helpers import campaign_trials, whole_run
from helpers.campaign_compare import differences, snapshot
from helpers.campaign_disk import message_faults
from helpers.campaign_run import DATA, WORK, Moment, Started

# The kinds of files, of a run that was killed between steps 10 and 12, or is complete.
KINDS = {
    "metrics.jsonl": rf"{WORK}/metrics\.jsonl",
    "arrays of the newest checkpoint": rf"{WORK}/checkpoints/NEWEST/state/d/.*",
    "shard": rf"{DATA}/.*array_record.*",
    "config.json": rf"{WORK}/config\.json",
    "data.json": rf"{WORK}/data\.json",
    "dataset_info.json": rf"{DATA}/.*dataset_info\.json",
    "features.json": rf"{DATA}/.*features\.json",
    "preparation.json": rf"{DATA}/.*preparation\.json",
    "metadata.json": rf"{DATA}/.*metadata\.json",
    "_METADATA": rf"{WORK}/checkpoints/NEWEST/.*_METADATA",
    "manifest.ocdbt": rf"{WORK}/checkpoints/NEWEST/.*manifest\.ocdbt",
    "metrics of a checkpoint": rf"{WORK}/checkpoints/.*/metrics/metrics",
    "arrays of an older checkpoint": rf"{WORK}/checkpoints/(?!NEWEST)\d+/state/.*",
    "arrays of a process": rf"{WORK}/checkpoints/NEWEST/state/ocdbt.process_0/d/.*",
    "commit_success.txt": rf"{WORK}/checkpoints/NEWEST/.*commit_success\.txt",
    "raw_files.tsv.gz": rf"{DATA}/.*raw_files\.tsv\.gz",
    "checksums.json": rf"{DATA}/.*checksums\.json",
    ".metrics.crc32": rf"{WORK}/\.metrics\.crc32",
    "curves.png": rf"{WORK}/figures/.*",
}
MODES = ("truncated", "bit flipped")


def damage(campaign, number):
    """Truncates a file or flips one of its bits, and runs the same command; after an error, with the file restored."""
    rng, folder = campaign.rng("damage", number), campaign.folder(f"damage.{number}")
    kind = list(KINDS)[number % len(KINDS)]
    mode = MODES[number // len(KINDS) % 2]
    complete = kind == "curves.png" or number % 5 == 4
    shutil.copytree(campaign.reference() if complete else interrupted(campaign), folder, dirs_exist_ok=True)
    before, newest = snapshot(folder), whole_run.checkpoint_steps(folder / WORK)[-1]
    pattern = KINDS[kind].replace("NEWEST", str(newest))
    name = rng.choice([name for name, content in before.items() if re.fullmatch(pattern, name) and content])
    content = bytearray(before[name])
    # Rows after the checkpoint are dropped, and most of a small shard is padding.
    stop = len(content) * 2 // 3 if kind.endswith((".jsonl", ".crc32")) else len(content)
    position = rng.choice([i for i in range(stop) if content[i] or mode == "truncated"])
    bit = rng.randrange(8)
    if mode == "truncated":
        del content[position:]
    else:
        content[position] ^= 1 << bit
    (folder / name).write_bytes(content)
    started = Started(folder, campaign.cache)
    seconds, errors = started.wait(campaign_trials.FINISH), started.read_errors()
    [code] = started.returncodes()
    record = {"file": kind, "name": name, "mode": mode, "position": position, "bit": bit, "complete": complete}
    record |= {"codes": [code], "seconds": seconds, "messages": campaign_trials.alarms(errors)}
    if code == 0:
        found = differences(folder, campaign.reference())
        is_unread = name in snapshot(folder) and snapshot(folder)[name] == bytes(content)
        # A file that this run has no need to read is reported when it is read.
        faults = [
            text for text in found if not (is_unread and _concerns(text, name)) and "damaged_checkpoints" not in text
        ]
        return record | {"outcome": "not read" if is_unread else "bit-equal", "faults": faults}
    faults = message_faults(code, errors)
    message = errors[errors.rfind("error: ") :]
    if not any(part in message for part in _names(name)):
        faults.append(f"the message does not name {name}")
    after = snapshot(folder)
    # Lines after the checkpoint and what an interrupted save has left behind are dropped in any case.
    dropped = (name, f"{WORK}/metrics.jsonl", f"{WORK}/.metrics.crc32")
    kept = [other for other in before if other not in dropped and "-tmp/" not in other]
    faults += [f"{other} was changed" for other in kept if after.get(other) != before[other]]
    (folder / name).write_bytes(before[name])
    faults += campaign_trials.finish(campaign, folder, campaign.cache)
    return record | {"outcome": "clear error", "faults": faults}


def interrupted(campaign):
    """The folder of a run that was killed after its checkpoint of step 10."""
    folder = campaign.scratch / "interrupted"
    if not (folder / "complete").exists():
        moment = Moment("commit", 6, operation=1)  # of step 12
        started = Started(campaign.folder(folder.name), campaign.cache, kill=moment)
        started.wait(campaign_trials.FINISH)
        assert whole_run.checkpoint_steps(folder / WORK)[-1] == 10, started.read_errors()
        (folder / "complete").touch()
    return folder


def _names(name):
    """Parts of a message that say which file is meant: its path or that of its checkpoint or dataset."""
    parts = name.split("/")
    if "checkpoints" in parts:
        return [f"checkpoint {parts[2]}", "/".join(parts[:3])]
    return [name] if parts[0] == WORK else [name, "/".join(parts[:-1])]


def _concerns(text, name):
    """Whether a difference is that of a damaged file."""
    parts = name.split("/")
    return text.startswith(name) or (parts[1] == "checkpoints" and text.startswith(f"checkpoint {parts[2]} "))
