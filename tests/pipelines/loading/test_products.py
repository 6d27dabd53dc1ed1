"""Products in fp32 on a CPU without arithmetic for 16 bit, whatever CPU this is."""

import pytest

from flux_mcp.pipelines import device
from flux_mcp.pipelines.device import Device, arithmetic, wide_products
from tests.pipelines.harness import TINY, make_task

pytestmark = pytest.mark.usefixtures("torch_here")


@pytest.fixture
def recorded():
    """Types of the weights that linear layers and convolutions really multiply."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    class Recording(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.found = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (functional.linear, functional.conv2d):
                self.found.append((args[0].dtype, args[1].dtype))
            return func(*args, **(kwargs or {}))

    with Recording() as recording:
        yield recording.found
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("at_once", [2**23, 40, 1])
def test_a_result_is_rounded_once(monkeypatch, recorded, at_once):
    import torch
    from torch.nn import functional

    from flux_mcp.pipelines import products

    monkeypatch.setattr(products, "WIDENED_AT_ONCE", at_once)
    made = torch.Generator().manual_seed(3)
    hidden, weight, bias, image, kernel = (
        torch.randn(shape, generator=made).bfloat16()
        for shape in ((2, 5, 16), (9, 16), (9,), (1, 4, 6, 6), (3, 4, 3, 3))
    )
    with products.WideProducts((torch.bfloat16,)):
        ours = (
            functional.linear(hidden, weight, bias),
            functional.linear(hidden[0, 0], weight),
            functional.conv2d(image, kernel, padding=1),
            hidden @ weight.T,
        )
    assert {one.dtype for one in ours} == {torch.bfloat16}
    assert set(recorded) == {(torch.float32, torch.float32)}
    right = (
        functional.linear(hidden.double(), weight.double(), bias.double()),
        functional.linear(hidden[0, 0].double(), weight.double()),
        functional.conv2d(image.double(), kernel.double(), padding=1),
        hidden.double() @ weight.double().T,
    )
    for found, expected in zip(ours, right, strict=True):
        # Half of the last of bf16's 8 bits.
        assert torch.allclose(found.double(), expected, rtol=2.0**-8, atol=1e-5)


def test_other_numbers_are_multiplied_as_they_are(recorded):
    import torch
    from torch.nn import functional

    from flux_mcp.pipelines.products import WideProducts

    with WideProducts((torch.bfloat16,)):
        functional.linear(torch.ones(2, 4), torch.ones(3, 4))
        functional.linear(torch.ones(2, 4).half(), torch.ones(3, 4).half())
        functional.linear(
            torch.ones(2, 4, device="meta").bfloat16(), torch.ones(3, 4, device="meta").bfloat16()
        )
    assert [one for one, _ in recorded] == [torch.float32, torch.float16, torch.bfloat16]


def test_an_image_is_drawn_with_them(fresh, micro, monkeypatch, recorded):
    import torch

    monkeypatch.setattr(device, "_in_fp32", lambda _device: (torch.bfloat16,))
    row = micro.model_copy(update={"precision": "bf16", "text_precision": "bf16"})
    fresh.draw(make_task(row, **TINY))
    assert len(recorded) > 100
    assert set(recorded) == {(torch.float32, torch.float32)}


def test_they_are_for_a_cpu_and_part_of_what_embeddings_are_kept_under(monkeypatch):
    import torch

    from flux_mcp.pipelines import products

    monkeypatch.setattr(products, "slow_dtypes", lambda: (torch.bfloat16,))
    slow = arithmetic(Device("cpu"))
    computed = {torch.float32, torch.bfloat16}
    assert isinstance(wide_products(Device("cpu"), computed), products.WideProducts)
    for other in (Device("cuda:0"), Device("mps")):
        assert not isinstance(wide_products(other, computed), products.WideProducts)
    # Watching every call costs micro, which computes in fp32, a twentieth of its time.
    assert not isinstance(wide_products(Device("cpu"), {torch.float32}), products.WideProducts)
    monkeypatch.setattr(products, "slow_dtypes", lambda: ())
    assert arithmetic(Device("cpu")) != slow
    assert not isinstance(wide_products(Device("cpu"), computed), products.WideProducts)
