"""Devices: what --device means on machines with and without GPUs."""

import pytest
import torch

from rlhf_engine.errors import UserError
from rlhf_engine.model.loading import pick_device


def refusal(device: str) -> str:
    with pytest.raises(UserError) as caught:
        pick_device(device)
    assert "\n" not in str(caught.value) and "--device" in str(caught.value)
    return str(caught.value)


@pytest.fixture
def gpus(monkeypatch):
    """gpus(count): make torch believe in that many CUDA GPUs."""
    def set_count(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return set_count


def test_devices_of_a_machine_without_a_gpu(gpus):
    gpus(0)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:0", "cuda:7"):
        assert refusal(device) == f"--device {device}: this machine has no CUDA GPU that torch can use; leave it at auto"


def test_devices_of_a_machine_with_gpus(gpus):
    gpus(2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda") and pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
    assert "has 2 CUDA GPUs, counted from cuda:0; give one of them" in refusal("cuda:7")


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", "xpu:1", "hpu", "npu", "vulkan"])
def test_kinds_on_which_nothing_was_tried(gpus, device):
    for count in (0, 2):
        gpus(count)
        assert refusal(device) == f"--device {device}: only CPUs and CUDA GPUs are supported; give cpu, or leave it at auto"


@pytest.mark.parametrize("device", ["gpu", "CUDA", "", "cuda:-1", "cuda:x", "cuda:", "cpu:3", "meta", "auto ", "cuda 1", "cuda:\u0663"])
def test_devices_that_are_none(gpus, device):
    gpus(2)
    assert "must be auto, cpu, cuda or cuda:N" in refusal(device)
