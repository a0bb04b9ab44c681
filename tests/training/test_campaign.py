"""A short version of tests/campaign.py: runs that are killed, stopped, or find a full disk or a damaged file."""

import os
import shutil

import pytest
from helpers import campaign_damage, campaign_disk, campaign_trials
from helpers.campaign_compare import differences
from helpers.campaign_run import WORK, Moment, Started


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return campaign_trials.Campaign(tmp_path_factory.mktemp("campaign"), seed=0)


def swap_checkpoints(folder):
    first, second = (folder / "checkpoints" / step for step in ("12", "13"))
    first.rename(folder / "swapped")
    second.rename(first)
    (folder / "swapped").rename(second)


def change_a_metric(folder):
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('"semantic/miou": 0.', '"semantic/miou": 1.', 1))


def drop_a_row(folder):
    path = folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def leave_a_file(folder):
    (folder / "checkpoints" / "11.saving-tmp").mkdir()
    (folder / "checkpoints" / "11.saving-tmp" / "state").touch()


def cut_the_figure(folder):
    path = folder / "figures" / "curves.png"
    path.write_bytes(path.read_bytes()[:-1])


DIFFERENCES = {
    swap_checkpoints: "numbers of /params/",
    change_a_metric: "semantic/miou is 1.",
    drop_a_row: "metrics.jsonl has the lines",
    leave_a_file: "11.saving-tmp is left over",
    cut_the_figure: "curves.png differs",
}


@pytest.mark.slow
def test_run_killed_while_saving_and_deleting_equals_the_uninterrupted_one(campaign):
    reference, folder = campaign.reference(), campaign.folder("killed")
    for moment in (Moment("commit", 4, operation=2), Moment("prune", 5, operation=1)):
        started = Started(folder, campaign.cache, kill=moment)
        started.wait(campaign_trials.FINISH)
        assert started.returncodes() == [-9], started.read_errors()
        assert started.traces[0].hit() == moment.phase
    assert campaign_trials.finish(campaign, folder, campaign.cache) == []
    for change, message in DIFFERENCES.items():  # what the comparison sees
        copy = shutil.copytree(reference, campaign.folder("changed"), dirs_exist_ok=True)
        change(copy / WORK)
        assert any(message in text for text in differences(copy, reference)), change.__name__


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("trial", [campaign_trials.kill, campaign_trials.stop])
def test_killed_and_stopped_runs_equal_the_uninterrupted_one(trial, number, processes, campaign):
    assert trial(campaign, number, processes)["faults"] == []


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounts a file system")
@pytest.mark.parametrize("number", range(4))
def test_full_disk_loses_nothing(number, campaign):
    assert campaign_disk.full_disk(campaign, number)["faults"] == []


@pytest.mark.long
@pytest.mark.parametrize("number", range(0, 40, 5))
def test_damaged_file_changes_no_result(number, campaign):
    assert campaign_damage.damage(campaign, number)["faults"] == []
