"""Models of timm, torchvision and transformers: opened, grown, written, opened again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gnomon as gn
from gnomon.errors import BadCheckpoint
from gnomon.opening import CannotOpen, MissingLibrary, Offline, opened, source, traced
from gnomon.opening.libraries import library
from gnomon.opening.requests import deepened
from gnomon.opening.writing import write


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No hub is asked, whatever this machine can reach."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


def the(name):
    try:
        return library(name)
    except MissingLibrary as lacking:
        pytest.skip(str(lacking))


IMAGES = [
    ("timm:resnet10t", "layer1*=1.5", 64),
    ("torchvision:squeezenet1_1", "features.3*=+2", 64),
]


@pytest.mark.parametrize(("text", "wide", "side"), IMAGES, ids=["timm", "torchvision"])
@pytest.mark.filterwarnings("ignore")
def test_an_image_model_grows_into_a_file_that_opens_by_itself(text, wide, side, tmp_path):
    the(text.partition(":")[0])
    first = opened(source(text, ["num_classes=5"]), [f"2x3x{side}x{side}"])
    grower, before = first.grower(), given(first)
    pattern, _, amount = wide.partition("=")
    more = {"add": 2} if amount.startswith("+") else {"by": float(amount)}
    receipt = grower.grow(gn.Widen(pattern, **more))
    assert receipt.parameters[1] > receipt.parameters[0]
    write(first, grower, tmp_path / "grown.safetensors", "")
    again = opened(source(str(tmp_path / "grown.safetensors")))
    assert torch.equal(given(again), given(first))
    assert (given(again) - before).abs().max() <= 1e-5 * before.abs().max()
    assert str(again.origin.source) == text and len(again.history) == 1


@pytest.mark.parametrize("text", ["timm:resnet10t", "torchvision:squeezenet1_1"])
@pytest.mark.filterwarnings("ignore")
def test_the_inputs_are_those_that_the_library_names(text):
    the(text.partition(":")[0])
    (images,) = traced(source(text)).example_inputs
    assert images.shape[:2] == (2, 3) and images.shape[2] in (176, 224)


@pytest.mark.parametrize("kind", ["timm", "torchvision", "hf"])
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_name_and_an_unknown_option_are_clear_errors(kind):
    the({"hf": "transformers"}.get(kind, kind))
    with pytest.raises(Offline if kind == "hf" else CannotOpen, match=r"no such model|hf download"):
        try:
            opened(source(f"{kind}:no-such-model"))
        except CannotOpen as fault:
            raise type(fault)(str(fault).replace("has no model", "no such model")) from None
    if kind != "hf":
        name = {"timm": "resnet10t", "torchvision": "squeezenet1_1"}[kind]
        with pytest.raises(CannotOpen, match="look at its options"):
            opened(source(f"{kind}:{name}", ["nonsense=1"]))


@pytest.mark.filterwarnings("ignore")
def test_pretrained_weights_that_cannot_be_reached_are_a_clear_error():
    the("timm")
    with pytest.raises(Offline, match=r"--weights FILE.safetensors"):
        opened(source("timm:resnet18.a1_in1k", pretrained=True))


def given(found):
    """The first tensor of what a model gives in eval mode on its example inputs."""
    example = found.example_inputs
    with torch.no_grad():
        model = found.model.eval()
        out = model(**example) if isinstance(example, dict) else model(*example)
    return out if isinstance(out, torch.Tensor) else out[0]


@pytest.fixture
def gpt2(tmp_path):
    """A folder with a small GPT-2 in bfloat16."""
    transformers = the("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "vocab.json").write_text("{}")
    return tmp_path / "small"


@pytest.mark.filterwarnings("ignore")
def test_a_transformer_keeps_its_dtype_and_opens_from_its_own_file(gpt2, tmp_path):
    first = opened(source(f"hf:{gpt2}"))
    assert {p.dtype for p in first.model.parameters()} == {torch.bfloat16}
    assert first.example_inputs["input_ids"].max() < 50
    grower, before = first.grower(), given(first)
    grower.grow(gn.Widen("transformer.h.0.mlp*", by=1.5))
    said = write(first, grower, tmp_path / "grown", "")
    assert "no words for 3 of its shapes" in said
    assert not (tmp_path / "grown" / "config.json").exists()
    again = opened(source(str(tmp_path / "grown")))
    assert {p.dtype for p in again.model.parameters()} == {torch.bfloat16}
    assert again.model.lm_head.weight is again.model.transformer.wte.weight
    assert torch.equal(given(again), given(first))
    assert (given(again) - before).abs().max() <= 2e-2 * before.abs().max()
    assert list(traced(source(str(tmp_path / "grown"))).origin.inputs) == list(first.origin.inputs)


@pytest.mark.filterwarnings("ignore")
def test_what_the_configuration_describes_is_written_for_from_pretrained(gpt2, tmp_path):
    first = opened(source(f"hf:{gpt2}"))
    said = write(first, first.grower(), tmp_path / "same", "")
    assert said == "from_pretrained opens it too"
    assert (tmp_path / "same" / "vocab.json").exists()
    assert torch.equal(given(opened(source(f"hf:{tmp_path / 'same'}"))), given(first))
    assert torch.equal(given(opened(source(str(tmp_path / "same")))), given(first))


@pytest.mark.filterwarnings("ignore")
def test_even_widths_and_repeated_blocks_are_written_for_from_pretrained(gpt2, tmp_path):
    """GPT-2 says nothing of its hidden width at first: four times the other."""
    first = opened(source(f"hf:{gpt2}"))
    grower, before = first.grower(), given(first)
    grower.grow(gn.Widen("transformer.h.*.mlp*", by=1.5))
    grower.grow(gn.Repeat("transformer.h.0"))
    assert write(first, grower, tmp_path / "grown", "") == "from_pretrained opens it too"
    told = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert (told["n_inner"], told["n_layer"]) == (96, 3)
    for text in (f"hf:{tmp_path / 'grown'}", str(tmp_path / "grown")):
        again = opened(source(text))
        assert torch.equal(given(again), given(first))
        assert (given(again) - before).abs().max() <= 2e-2 * before.abs().max()
        assert again.model.config.n_inner == 96


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_repeated_blocks_are_written_for_from_pretrained(dtype, gpt2, tmp_path):
    """In float64 a product of weights in a mapped file is rounded otherwise than in memory."""
    transformers = the("transformers")
    config = transformers.AutoConfig.from_pretrained(gpt2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(gpt2)
    first = opened(source(f"hf:{gpt2}"), ["2x5:50"])
    grower, before = first.grower(), given(first)
    for morph in deepened("transformer.h:+2", "r2r", first.model):
        grower.grow(morph)
    assert write(first, grower, tmp_path / "deep", "") == "from_pretrained opens it too"
    assert json.loads((tmp_path / "deep" / "config.json").read_text())["n_layer"] == 4
    assert json.loads((gpt2 / "config.json").read_text())["n_layer"] == 2
    for text in (f"hf:{tmp_path / 'deep'}", str(tmp_path / "deep")):
        again = opened(source(text), ["input_ids=2x5:50"])
        assert len(again.model.transformer.h) == again.model.config.n_layer == 4
        bound = 2e-2 if dtype == torch.bfloat16 else 1e-6
        assert (given(again) - before).abs().max() <= bound * before.abs().max()
        prompt = again.example_inputs["input_ids"]
        how = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(
            *(again.model.generate(prompt, use_cache=c, **how) for c in (False, True))
        )


@pytest.mark.filterwarnings("ignore")
def test_bad_folders_of_transformers_are_clear_errors(gpt2):
    weights, config = gpt2 / "model.safetensors", gpt2 / "config.json"
    whole, settings = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCheckpoint, match="cannot be"):
        opened(source(f"hf:{gpt2}"))
    weights.unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        opened(source(f"hf:{gpt2}"))
    (gpt2 / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(BadCheckpoint, match=r"pickle.*Convert"):
        opened(source(f"hf:{gpt2}"))
    weights.write_bytes(whole)
    config.write_text(json.dumps(settings | {"n_layer": 3}))
    with pytest.raises(BadCheckpoint, match="do not fit GPT2LMHeadModel: missing keys"):
        opened(source(f"hf:{gpt2}"))
    config.write_text(json.dumps(settings | {"n_inner": 20}))
    with pytest.raises(BadCheckpoint, match="mlp"):
        opened(source(f"hf:{gpt2}"))
    config.write_text("{")
    with pytest.raises(CannotOpen, match=r"config.json"):
        opened(source(f"hf:{gpt2}"))


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_configuration_may_lie_elsewhere(gpt2, tmp_path):
    first = opened(source(f"hf:{gpt2}"))
    (gpt2 / "model.safetensors").rename(tmp_path / "w.safetensors")
    again = opened(source(f"hf:{gpt2}", weights=tmp_path / "w.safetensors"))
    assert torch.equal(given(again), given(first))
    assert again.model.lm_head.weight is again.model.transformer.wte.weight
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(BadCheckpoint, match="does not fit GPT2LMHeadModel"):
        opened(source(f"hf:{gpt2}", weights=Path(tmp_path / "w.safetensors")))


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_of_the_same_shapes_but_another_function_is_not_written(gpt2, tmp_path):
    first = opened(source(f"hf:{gpt2}"))
    first.model.config.activation_function = "relu"
    said = write(first, first.grower(), tmp_path / "other", "")
    assert "another function" in said
    assert not (tmp_path / "other" / "config.json").exists()
    assert not (tmp_path / "other" / "generation_config.json").exists()
    assert torch.equal(given(opened(source(str(tmp_path / "other")))), given(first))
