"""The mechanism by which weights go onto a GPU and off it, on real models of diffusers."""

from itertools import pairwise

import pytest

from flux_mcp.pipelines.memory.units import CopiedBytes

pytestmark = pytest.mark.usefixtures("torch_here")

GPU = "cpu"


def flux(layers, single_layers):
    """A FLUX transformer of so many blocks, very narrow and untrained."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()


@pytest.fixture
def transformer():
    """Nine blocks, so that some can stay while others stream."""
    return flux(3, 6)


@pytest.fixture
def copied():
    return CopiedBytes()


@pytest.fixture
def part(transformer, copied):
    from flux_mcp.pipelines.memory.parts import Part

    return Part(transformer, GPU, copied, on_gpu=False)


def forward(model):
    import torch

    tokens, text = 16, 4
    torch.manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, tokens, 16),
            encoder_hidden_states=torch.randn(1, text, 32),
            pooled_projections=torch.randn(1, 32),
            timestep=torch.tensor([0.5]),
            img_ids=torch.zeros(tokens, 3),
            txt_ids=torch.zeros(text, 3),
            return_dict=False,
        )[0]


def pointers(model):
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]


def blocks_of(model):
    return [*model.transformer_blocks, *model.single_transformer_blocks]


SHARES = [1.0, 0.65, 0.3, 0.0]


@pytest.mark.parametrize("share", SHARES)
def test_a_model_computes_the_same_whatever_share_of_it_is_on_the_gpu(part, transformer, share):
    expected = forward(transformer)
    for _ in range(2):
        part.to_gpu(share)
        assert forward(transformer).equal(expected)
        assert forward(transformer).equal(expected)
        part.to_host()
    assert forward(transformer).equal(expected)


@pytest.mark.parametrize("share", SHARES)
def test_the_share_and_two_blocks_are_all_that_is_on_the_gpu(part, transformer, share):
    sizes = [unit.nbytes for _, unit in part._blocks]
    outside = part.nbytes - sum(sizes)
    part.to_gpu(share)
    kept = max(share * part.nbytes, outside)
    assert part.gpu_bytes <= min(part.nbytes, kept + 2 * max(sizes))
    assert part.gpu_bytes == part.gpu_bytes_at(share)
    on_host = {p for unit in part._units for p in _host_pointers(unit)}
    there = sum(p.nbytes for p in transformer.parameters() if p.data_ptr() not in on_host)
    assert there <= kept


def _host_pointers(unit):
    return {tensor.data_ptr() for tensor in unit._host_tensors}


def test_blocks_that_stay_are_spread_among_those_that_stream(copied):
    """As many blocks as FLUX.1 has: none waits long for the one after it."""
    from flux_mcp.pipelines.memory.parts import Part

    part = Part(flux(19, 38), GPU, copied, on_gpu=False)
    part.to_gpu(0.65)
    streamed = [unit for _, unit in part._streamed]
    places = [number for number, (_, unit) in enumerate(part._blocks) if unit in streamed]
    gaps = [after - before for before, after in pairwise(places)]
    assert 2 <= min(gaps) <= max(gaps) <= 4


def test_leaving_copies_nothing_and_gives_back_the_same_bytes(part, transformer, copied):
    part.make_host_copy()
    before = pointers(transformer)
    part.to_gpu()
    assert not set(pointers(transformer)) & set(before)
    assert (copied.to_gpu_bytes, copied.to_host_bytes) == (part.nbytes, 0)
    part.to_host()
    assert pointers(transformer) == before
    assert (copied.to_gpu_bytes, copied.to_host_bytes) == (part.nbytes, 0)


def test_a_step_copies_each_block_that_streams_once(part, transformer, copied):
    part.to_gpu(0.0)
    forward(transformer)
    before = copied.to_gpu_bytes
    forward(transformer)
    assert copied.to_gpu_bytes - before == sum(unit.nbytes for _, unit in part._blocks)


def test_weights_that_were_made_on_the_gpu_are_copied_down_once(transformer, copied):
    from flux_mcp.pipelines.memory.parts import Part

    expected = forward(transformer)
    part = Part(transformer, GPU, copied, on_gpu=True)
    part.to_gpu()
    assert copied.to_host_bytes == copied.to_gpu_bytes == 0
    for _ in range(3):
        part.to_host()
        part.to_gpu()
    assert copied.to_host_bytes == part.nbytes
    assert copied.to_gpu_bytes == 3 * part.nbytes
    assert forward(transformer).equal(expected)


def test_a_copy_in_host_memory_is_not_what_is_worked_with(part, transformer):
    expected = forward(transformer)
    part.to_gpu()
    for parameter in transformer.parameters():
        parameter.data.zero_()
    part.to_host()
    assert forward(transformer).equal(expected)


def test_the_copy_of_a_part_that_is_on_the_gpu_can_be_given_up_and_no_other(part, transformer):
    expected = forward(transformer)
    part.make_host_copy()
    with pytest.raises(RuntimeError, match="only copy"):
        part.drop_host_copy()
    part.to_gpu()
    part.drop_host_copy()
    assert not part.in_host
    assert forward(transformer).equal(expected)
    part.to_host()
    assert part.in_host
    assert forward(transformer).equal(expected)


@pytest.mark.parametrize("share", [0.65, 0.0])
@pytest.mark.parametrize("at", [0, 2, 3, 8])
def test_a_step_that_broke_off_leaves_the_next_one_as_it_was(part, transformer, share, at):
    expected = forward(transformer)
    part.to_gpu(share)
    forward(transformer)
    block = blocks_of(transformer)[at]
    hook = block.register_forward_pre_hook(_break_off)
    with pytest.raises(MemoryError):
        forward(transformer)
    hook.remove()
    assert forward(transformer).equal(expected)
    part.to_host()
    assert forward(transformer).equal(expected)


def _break_off(_module, _inputs):
    raise MemoryError


def test_a_gpu_without_room_has_nothing_left_on_it(part, transformer, copied, monkeypatch):
    from flux_mcp.pipelines.memory.units import Unit

    expected = forward(transformer)
    part.make_host_copy()
    before = pointers(transformer)
    bring, brought = Unit.to_gpu, []

    def run_out(unit):
        if len(brought) == 4:
            raise MemoryError
        brought.append(unit)
        bring(unit)

    monkeypatch.setattr(Unit, "to_gpu", run_out)
    with pytest.raises(MemoryError):
        part.to_gpu()
    assert not part.is_on_gpu
    assert pointers(transformer) == before
    assert forward(transformer).equal(expected)


def test_hooks_are_on_a_model_only_while_it_streams(part, transformer):
    part.to_gpu(0.0)
    assert all(block._forward_pre_hooks for block in blocks_of(transformer))
    part.to_gpu(1.0)
    assert not any(block._forward_pre_hooks for block in blocks_of(transformer))
    assert not any(block._forward_hooks for block in blocks_of(transformer))


@pytest.mark.parametrize("share", SHARES)
def test_what_somebody_else_puts_onto_a_model_moves_with_it(part, transformer, copied, share):
    import torch
    from torch import nn

    part.make_host_copy()
    layer = blocks_of(transformer)[-1].proj_mlp
    layer.guest = nn.Linear(3, 3)
    mine = layer.guest.weight
    before = copied.to_gpu_bytes
    part.to_gpu(share)
    assert layer.guest.weight.data_ptr() != mine.data_ptr()
    assert layer.guest.weight.equal(mine)
    assert copied.to_gpu_bytes - before >= part.nbytes * (share == 1) + 48
    layer.late = nn.Linear(2, 2, bias=False)
    values = layer.late.weight.clone()
    part.to_host()
    assert layer.guest.weight is mine
    assert torch.equal(layer.late.weight, values)
    assert copied.to_host_bytes == values.nbytes


# --- tensors of every shape -----------------------------------------------------------------------


def test_a_unit_keeps_shapes_strides_types_and_what_is_tied():
    import torch
    from torch import nn

    from flux_mcp.pipelines.loading.slots import slots_of
    from flux_mcp.pipelines.memory.units import ALIGNMENT_BYTES, Unit

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            self.one, self.other = nn.Linear(5, 7), nn.Linear(5, 7)
            self.other.weight = self.one.weight
            self.frozen = nn.Parameter(torch.arange(3), requires_grad=False)
            self.register_buffer("scalar", torch.tensor(2.5))
            self.register_buffer("empty", torch.empty(0, 4))
            self.register_buffer("spread", torch.tensor([1.0, 2.0])[:, None].expand(2, 3))
            self.register_buffer("narrow", torch.ones(3, dtype=torch.float8_e4m3fn))

    model, copied = Odd(), CopiedBytes()
    before = {name: (t.clone(), t.dtype) for name, t in model.state_dict().items()}
    stride = model.conv.weight.stride()
    unit = Unit(slots_of(model), GPU, copied)
    unit.make_host_copy(from_gpu=False)
    for move in (unit.to_host, unit.to_gpu, unit.to_host, unit.to_gpu):
        move()
        for name, tensor in model.state_dict().items():
            value, dtype = before[name]
            assert tensor.dtype == dtype
            assert torch.equal(tensor.float(), value.float())
        assert model.one.weight is model.other.weight
        assert model.conv.weight.stride() == stride
        assert model.conv.weight.requires_grad
        assert not model.frozen.requires_grad
        # What a processor rounds alike on; a GPU's allocator gives more.
        assert not any(t.data_ptr() % 64 for t in model.parameters())
        assert not unit.nbytes % ALIGNMENT_BYTES
    assert copied.to_gpu_bytes == 2 * unit.nbytes


def test_a_unit_without_a_copy_in_host_memory_does_not_move():
    from torch import nn

    from flux_mcp.pipelines.loading.slots import slots_of
    from flux_mcp.pipelines.memory.units import Unit

    unit = Unit(slots_of(nn.Linear(2, 2)), GPU, CopiedBytes())
    for move in (unit.to_gpu, unit.to_host):
        with pytest.raises(RuntimeError, match="copy in host memory"):
            move()


def test_blocks_of_host_memory_begin_with_a_page_and_share_none():
    """A page can be locked once; CUDA refuses the second block that has it."""
    from flux_mcp.pipelines.memory.units import HostBlock

    blocks = [HostBlock(nbytes, locked=False).bytes for nbytes in (1, 100, 4096, 5000, 0)]
    assert [block.numel() for block in blocks] == [1, 100, 4096, 5000, 0]
    assert not any(block.data_ptr() % 4096 for block in blocks[:-1])
    # What lies behind a block, to the end of its page, is its own as well.
    for block in blocks[:-1]:
        pages = -(-block.numel() // 4096) * 4096
        assert block.untyped_storage().nbytes() - block.storage_offset() >= pages


# --- the store ------------------------------------------------------------------------------------

LAYER_BYTES = 64 * 64 * 4 + 512
"""Of a layer of 64 by 64 with its biases, as a unit lays it out."""


@pytest.fixture
def store_with():
    """A store with so much memory, and the keys of what it let go."""
    from flux_mcp.pipelines.device import Device
    from flux_mcp.pipelines.memory.store import DeviceMemory, PartStore

    def make(gpu_bytes, host_bytes):
        gone = []

        def forget(keys):
            gone.extend(keys)
            store.drop(keys)

        store = PartStore(DeviceMemory(Device(GPU), total_bytes=gpu_bytes), host_bytes, forget)
        return store, gone

    return make


def layer():
    from torch import nn

    return nn.Linear(64, 64)


@pytest.mark.parametrize(("layers", "left"), [(1, ["new"]), (2, ["old", "new"])])
def test_host_memory_is_kept_within_its_budget_by_what_parts_really_take(store_with, layers, left):
    store, gone = store_with(10 * LAYER_BYTES, layers * LAYER_BYTES)
    for key in ("old", "new"):
        store.begin([key], "model_offload")
        store.add(key, layer(), on_gpu=False)
    assert list(store) == left
    assert gone == ["old"] * (2 - layers)
    assert store.host_bytes == layers * LAYER_BYTES


@pytest.mark.parametrize(("layers", "gone_to"), [(0, "disk"), (1, "host memory")])
def test_what_leaves_the_gpu_goes_to_host_memory_if_there_is_room(store_with, layers, gone_to):
    store, gone = store_with(LAYER_BYTES, layers * LAYER_BYTES)
    store.begin(["old"], "resident")
    store.add("old", layer(), on_gpu=True)
    assert store.host_bytes == 0
    assert store.make_room(LAYER_BYTES, keep=["new"])
    assert store.gpu_bytes == 0
    assert ("old" in store) is (gone_to == "host memory") is (gone == [])
    assert store.host_bytes == layers * LAYER_BYTES


def test_a_model_calls_for_its_weights_and_others_make_room_for_them(store_with):
    import torch

    store, gone = store_with(LAYER_BYTES, 10 * LAYER_BYTES)
    layers = {key: layer() for key in ("one", "two")}
    inputs = torch.ones(1, 64)
    expected = {key: module(inputs) for key, module in layers.items()}
    store.begin(layers, "model_offload")
    for key, module in layers.items():
        store.add(key, module, on_gpu=False)
    for key in ("one", "two", "one"):
        assert layers[key](inputs).equal(expected[key])
        assert [name for name in layers if store.is_on_gpu(name)] == [key]
    assert store.copied.to_gpu_bytes == 3 * LAYER_BYTES
    store.release()
    assert (store.gpu_bytes, store.copied.to_host_bytes, gone) == (0, 0, [])


def test_a_part_that_is_dropped_is_an_ordinary_model_again(store_with):
    store, _ = store_with(10 * LAYER_BYTES, 10 * LAYER_BYTES)
    module = layer()
    store.begin(["one"], "model_offload")
    store.add("one", module, on_gpu=False)
    assert hasattr(module, "_hf_hook")
    store.drop(["one"])
    assert not hasattr(module, "_hf_hook")
    assert "one" not in store
    assert len(store) == store.gpu_bytes == store.host_bytes == 0
