import pytest

from mtan_jax.sweep import slots


def find(monkeypatch, platform, count, jobs=None):
    monkeypatch.setattr(slots, "_find_devices", lambda: (platform, count))
    return slots.find_slots(jobs)


def test_the_devices_of_this_machine_are_cpus():
    assert slots._find_devices() == ("cpu", 4)  # virtual ones; see conftest


def test_on_cpus_there_are_as_many_slots_as_asked_for(monkeypatch):
    assert find(monkeypatch, "cpu", 1) == [slots.Slot("cpu0")]
    assert [slot.name for slot in find(monkeypatch, "cpu", 1, 3)] == ["cpu0", "cpu1", "cpu2"]


def test_each_process_sees_one_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.environment for slot in find(monkeypatch, "gpu", 2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in find(monkeypatch, "gpu", 2)] == ["5", "7"]
    assert len(find(monkeypatch, "gpu", 2, 1)) == 1


def test_each_process_sees_one_tpu_chip(monkeypatch):
    environments = [slot.environment for slot in find(monkeypatch, "tpu", 4)]
    assert [each["TPU_VISIBLE_DEVICES"] for each in environments] == ["0", "1", "2", "3"]
    assert len({each["TPU_MESH_CONTROLLER_PORT"] for each in environments}) == 4
    assert {each["TPU_CHIPS_PER_PROCESS_BOUNDS"] for each in environments} == {"1,1,1"}


def test_more_jobs_than_devices(monkeypatch):
    with pytest.raises(slots.SlotsError, match="--jobs=3: expected at most 2, one process per GPU device"):
        find(monkeypatch, "gpu", 2, 3)


def test_no_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(slots.SlotsError, match=r"JAX finds no devices: .*nonsense"):
        slots.find_slots(None)
