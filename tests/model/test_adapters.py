"""Adapters on disk and in the model: LoRA alone, stacked, merged; all weights; bad folders."""

from pathlib import Path

import pytest
import torch

from solver.config import ModelSettings
from solver.errors import InputError
from solver.infer.vllm.adapters import check_adapter
from solver.model.adapter_folder import adapter_identity
from solver.model.adapters import apply_adapter, own_weights, save_full
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape, attach, load_stack, read_shape
from solver.types import AdapterRef

SHAPE = LoraShape(rank=4, alpha=8.0)
IDS = torch.randint(0, 10, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(tiny_base: Path, request: pytest.FixtureRequest) -> Base:
    return load_base(tiny_base, ModelSettings(dtype=request.param, device="cpu"))


def make_lora(base: Base, folder: Path, seed: int, shape: LoraShape = SHAPE) -> AdapterRef:
    stack = attach(base, shape, 1)
    stack.reset(0, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in stack.layers.values():
            layer.b.normal_(std=0.3, generator=generator)
    stack.save(0, folder)
    return AdapterRef(folder.name, folder, "lora")


@torch.no_grad()
def logits(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(ids).logits.float()


def test_a_fresh_stack_changes_nothing_and_seeds_alone_decide(base: Base) -> None:
    before, after = torch.get_rng_state(), attach(base, SHAPE, 2)
    after.reset(0, 7)
    after.reset(1, 8)
    after.set_rows([0, 1, 1])
    assert torch.equal(logits(after.model), logits(base.model))
    assert torch.equal(torch.get_rng_state(), before)
    other = attach(base, SHAPE, 1)
    other.reset(0, 8)
    assert all(torch.equal(a[1], b[0]) for a, b in zip(after.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("shape", [SHAPE, LoraShape(rank=6, alpha=3.0, rslora=True)])
def test_peft_reads_what_is_saved(base: Base, tiny_base: Path, tmp_path: Path, shape: LoraShape) -> None:
    from peft import PeftModel

    ref = make_lora(base, tmp_path / "a", 1, shape)
    settings = ModelSettings(dtype="float32" if base.dtype is torch.float32 else "bfloat16", device="cpu")
    theirs = logits(PeftModel.from_pretrained(load_base(tiny_base, settings).model, ref.path))
    tolerance = 1e-5 if base.dtype is torch.float32 else 0.05
    torch.testing.assert_close(logits(apply_adapter(base, ref)), theirs, atol=tolerance, rtol=0)
    assert not torch.allclose(theirs, logits(base.model), atol=0.1)
    assert read_shape(ref.path).scaling == pytest.approx(shape.scaling)


def test_rows_of_a_stack_use_their_own_adapter(base: Base, tmp_path: Path) -> None:
    refs = [make_lora(base, tmp_path / name, seed) for seed, name in enumerate("ab")]
    stack = load_stack(base, [*refs, None])
    stack.set_rows([1, 2, 0])
    mixed = logits(stack.model)
    tolerance = 1e-5 if base.dtype is torch.float32 else 0.05
    for row, ref in enumerate([refs[1], None, refs[0]]):
        torch.testing.assert_close(mixed[row], logits(apply_adapter(base, ref))[row], atol=tolerance, rtol=0)
    with pytest.raises(ValueError, match="which row"):
        stack.set_rows(None)


def test_both_forms_of_a_layer_have_equal_gradients(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    stack = attach(base, SHAPE, 1)
    stack.load(0, make_lora(base, tmp_path / "a", 3).path)
    found = []
    for rows in (None, [0, 0, 0]):
        stack.set_rows(rows)
        found.append(torch.autograd.grad(stack.model(IDS).logits.square().sum(), stack.parameters()))
    for merged, added in zip(*found, strict=True):
        assert added.abs().max() > 0
        torch.testing.assert_close(merged, added, rtol=1e-3, atol=1e-4 * float(added.abs().max()))


def test_all_weights_round_trip_and_the_base_stays(base: Base, tmp_path: Path) -> None:
    before = logits(base.model)
    model = own_weights(base, torch.float32)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # still tied
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    save_full(base, model, tmp_path / "f")
    served = apply_adapter(base, AdapterRef("f", tmp_path / "f", "full"))
    assert {p.dtype for p in served.parameters()} == {base.dtype}
    torch.testing.assert_close(logits(served), logits(model), atol=1e-5 if base.dtype is torch.float32 else 0.1, rtol=0)
    assert torch.equal(logits(base.model), before)
    assert not torch.allclose(logits(served), before, atol=1e-2)
    again = load_base(tmp_path / "f", ModelSettings(dtype="float32", device="cpu"))  # it is a model folder
    torch.testing.assert_close(logits(again.model), logits(model), atol=1e-5, rtol=0)


def test_bad_adapter_folders_are_named(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    def refused(ref: AdapterRef, words: str) -> None:
        with pytest.raises(InputError) as caught:
            apply_adapter(base, ref)
        assert words in str(caught.value)
        assert str(ref.path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(AdapterRef("gone", tmp_path / "gone", "lora"), "missing")
    for kind, file in (("lora", "adapter_model.safetensors"), ("full", "model.safetensors")):
        ref = make_lora(base, tmp_path / kind, 1)
        if kind == "full":
            save_full(base, base.model, ref.path)
        ref = AdapterRef(kind, ref.path, kind)  # type: ignore[arg-type]
        whole = (ref.path / file).read_bytes()
        (ref.path / file).write_bytes(whole[: len(whole) // 2])
        refused(ref, "corrupt")
        (ref.path / file).unlink()
        refused(ref, "corrupt")
    ref = make_lora(base, tmp_path / "config", 1)
    for text, words in (
        ("{}", "not a LoRA adapter"),
        ("[]", "not a LoRA adapter"),
        ('{"r": 0, "lora_alpha": 8}', "its rank (r) is 0"),
        ('{"r": Infinity, "lora_alpha": 8}', "not a LoRA adapter"),
        ('{"r": 4', "not valid JSON"),
    ):
        (ref.path / "adapter_config.json").write_text(text)
        refused(ref, words)
    (ref.path / "adapter_config.json").unlink()
    refused(ref, "adapter_config.json is missing")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_changes_no_adapter(base: Base, tmp_path: Path, encoding: str) -> None:
    ref = make_lora(base, tmp_path / "marked", 1)
    expected = read_shape(ref.path), adapter_identity(ref.path), logits(apply_adapter(base, ref))
    file = ref.path / "adapter_config.json"
    file.write_text(file.read_text(), encoding=encoding)
    assert (read_shape(ref.path), adapter_identity(ref.path)) == expected[:2]
    assert torch.equal(logits(apply_adapter(base, ref)), expected[2])
    with pytest.raises(InputError, match="byte order mark, which vLLM cannot read"):
        check_adapter(base, ref)


def test_adapters_of_another_model_are_refused(base: Base, tmp_path: Path) -> None:
    from solver.model.build import Shape, new_model, save_model

    for name, shape in {"wide": Shape(64, 2, 2, 64), "deep": Shape(32, 3, 2, 64)}.items():
        save_model(new_model(shape), tmp_path / name, torch.float32)
        other = load_base(tmp_path / name, ModelSettings(dtype="float32", device="cpu"))
        save_full(other, other.model, tmp_path / f"{name}-full")
        for ref in (make_lora(other, tmp_path / f"{name}-lora", 1), AdapterRef("f", tmp_path / f"{name}-full", "full")):
            with pytest.raises(InputError, match="does not fit"):
                apply_adapter(base, ref)
