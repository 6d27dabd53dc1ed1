"""Which device would draw and why, told without torch, for the machines people have."""

import pytest

from flux_mcp.doctor.machine import as_said
from flux_mcp.models.planning.device import Surroundings, Torch, choose, torch_build
from flux_mcp.models.planning.machine import DriverAnswer, DriverGpu
from flux_mcp.worker_protocol.messages import Environment

CUDA = torch_build("2.13.0+cu130", {"cuda": "13.0"}, is_known=True)
CPU = torch_build("2.13.0+cpu", {"cuda": None}, is_known=True)
ROCM = torch_build("2.13.0+rocm7.0", {"hip": "7.0"}, is_known=True)
NONE = Torch(version=None, build="unknown", cuda=None, least_driver=None)


def gpu(name: str = "RTX", driver: str = "580.95.05") -> DriverGpu:
    return DriverGpu(name, name, driver, 8.9, 24.0, 20.0, is_split=False)


def there(
    setting: str = "auto",
    torch: Torch = CUDA,
    gpus: tuple[DriverGpu, ...] = (gpu(),),
    problem: str | None = None,
    visible: str | None = None,
    *,
    mac: bool = False,
) -> Surroundings:
    return Surroundings(setting, torch, DriverAnswer(gpus, problem), visible, mac)


@pytest.mark.parametrize(
    ("surroundings", "kind", "obstacle", "says"),
    [
        (there(), "cuda", None, "the driver tells of a GPU"),
        (there(visible="1,0"), "cuda", None, "the driver tells of a GPU"),
        (there(visible=""), "cpu", "hidden", "hides every GPU"),
        (there(visible="-1,0"), "cpu", "hidden", "hides every GPU"),
        (there(torch=CPU), "cpu", "cpu_build", "torch 2.13.0+cpu is a CPU build"),
        (there(torch=NONE), "cpu", "no_torch", "torch is not installed"),
        (there(gpus=(gpu(driver="535.1"),)), "cpu", "old_driver", "takes 580 or newer"),
        (there(gpus=(gpu(driver="[N/A]"),)), "cuda", None, "the driver tells of a GPU"),
        (there(gpus=()), "cpu", "no_gpu", "no NVIDIA GPU was found"),
        (there(gpus=(), problem="It fails."), "cpu", "driver_fails", "It fails."),
        (there(torch=ROCM, gpus=()), "cuda", None, "AMD GPUs"),
        (there("cpu"), "cpu", None, "the setting 'device' says cpu"),
        (there("cuda"), "cuda", None, "the setting 'device' says cuda."),
        (there("cuda", CPU), "cuda", "cpu_build", "The worker would refuse."),
        (there("mps"), "mps", None, "which is not here: the worker would refuse"),
        (there("mps", CPU, (), mac=True), "mps", "no_gpu", "the setting 'device' says mps."),
        (there("auto", CPU, (), mac=True), "mps", "no_gpu", "Apple's own processor"),
        (there("auto", NONE, (), mac=True), "cpu", "no_torch", "torch is not installed"),
    ],
)
def test_what_draws_is_told_with_its_reason(surroundings, kind, obstacle, says):
    device = choose(surroundings)
    assert (device.kind, device.obstacle) == (kind, obstacle)
    assert says in device.reason
    assert device.gpu == ("RTX" if kind == "cuda" and surroundings.driver.gpus else None)


def test_with_several_gpus_the_first_counts_and_it_is_said():
    device = choose(there(gpus=(gpu("T400"), gpu("RTX"))))
    assert device.gpu == "T400"
    assert "Of 2 GPUs, plans count with the first" in device.reason


@pytest.mark.parametrize(
    ("said", "kind", "name"),
    [("cuda:1", "cuda", "RTX"), ("cpu", "cpu", None), ("mps", "mps", None)],
)
def test_what_a_worker_said_counts_more(said, kind, name):
    environment = Environment(
        torch="2.13.0",
        diffusers="0.42.1",
        transformers="5.23.0",
        device=said,
        device_name="RTX",
        threads=1,
        platform="linux",
    )
    device = as_said(choose(there(gpus=(gpu("T400"), gpu("RTX")))), environment)
    assert (device.kind, device.gpu) == (kind, name)
    assert device.reason == f"a worker said {said}."
