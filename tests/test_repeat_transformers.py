"""Repeat in models of transformers: the configuration, the key-value cache, save and load."""

import copy

import pytest
import torch

import gnomon as gn
from gnomon.opening import MissingLibrary
from gnomon.opening.libraries import library

try:
    transformers = library("transformers")
except MissingLibrary as lacking:
    pytest.skip(str(lacking), allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers' own imports

PROMPT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def gpt2(layers=3):
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=32, n_embd=16, n_layer=layers, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config), "transformer.h", "n_layer"


def llama(layers=3):
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), "model.layers", "num_hidden_layers"


def qwen(layers=2):
    config = transformers.Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config), "model.layers", "num_hidden_layers"


KINDS = {"gpt2": gpt2, "llama": llama, "qwen": qwen}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, dtype=torch.float32):
    torch.manual_seed(0)
    model, stack, number = KINDS[kind]()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to(dtype).eval(), stack, number


def logits(model):
    with torch.no_grad():
        return model(PROMPT).logits


def continued(model, **how):
    return model.generate(PROMPT, max_new_tokens=6, do_sample=False, **how)


@every_kind
@pytest.mark.parametrize(("at", "count"), [(0, 1), (1, 2), (-1, 3)])
def test_the_function_is_kept_and_the_configuration_says_so(kind, at, count, tmp_path):
    model, stack, number = made(kind, torch.float64)
    n, theirs = len(model.get_submodule(stack)), model.config
    before, told = logits(model), getattr(model.config, number)
    grower = gn.Grower(model, {"input_ids": PROMPT, "use_cache": False})
    receipt = grower.grow(gn.Repeat(f"{stack}.{at % n}", count=count))
    assert receipt.preserves
    assert (logits(model) - before).abs().max() <= 1e-12
    assert getattr(model.config, number) == told + count == len(model.get_submodule(stack))
    assert getattr(theirs, number) == told  # of whoever else was built from it
    indices = [
        value
        for module in model.get_submodule(stack).modules()
        for name, value in vars(module).items()
        if name == "layer_idx"
    ]
    assert list(dict.fromkeys(indices)) == list(range(n + count))
    configs = {id(v) for m in model.modules() for k, v in vars(m).items() if k == "config"}
    assert len(configs) == 1

    model.save_pretrained(tmp_path)
    again = reread(model, tmp_path)
    assert torch.equal(logits(again), logits(model))


def reread(model, folder):
    """What from_pretrained makes of a folder, in memory of its own.

    It leaves weights where they lie in the mapped file, not on the 64 bytes that torch's allocator
    keeps to, and matrix products of those are rounded otherwise (by 2e-16 here).
    """
    again = type(model).from_pretrained(folder).eval()
    one, other = model.state_dict(), again.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert (logits(again) - logits(model)).abs().max() <= 1e-14
    return copy.deepcopy(again)


@every_kind
def test_generation_with_a_cache_goes_on_as_before(kind):
    model, stack, _ = made(kind)
    before = continued(model)
    grower = gn.Grower(model, {"input_ids": PROMPT, "use_cache": False})
    grower.grow(gn.Repeat(f"{stack}.0", count=2))
    grower.grow(gn.Repeat(f"{stack}.1"))
    assert torch.equal(continued(model), before)
    with torch.no_grad():
        for p in model.get_submodule(stack).parameters():
            p.add_(0.02 * torch.randn_like(p))
    assert torch.equal(continued(model), continued(model, use_cache=False))


@every_kind
@pytest.mark.parametrize("before", ["Widen", "Deepen"])
def test_the_number_of_layers_goes_on_being_said_in_a_model_that_has_grown(kind, before):
    model, stack, number = made(kind)
    told, old = getattr(model.config, number), continued(model)
    grower = gn.Grower(model, {"input_ids": PROMPT, "use_cache": False})
    hidden = "c_fc" if kind == "gpt2" else "gate_proj"
    grower.grow(
        gn.Widen(f"{stack}.0.mlp.{hidden}", add=4) if before == "Widen"
        else gn.Deepen(f"{stack}.0.mlp")
    )  # fmt: skip
    plan = grower.plan(gn.Repeat(f"{stack}.1", count=2))
    assert any(f"{told} -> {told + 2}" in note and "again" not in note for note in plan.notes)
    grower.grow(plan)
    assert getattr(model.config, number) == told + 2
    assert torch.equal(continued(model), old)
    assert torch.equal(continued(model, use_cache=False), old)


@every_kind
def test_a_file_grows_the_small_model_again(kind, tmp_path):
    model, stack, number = made(kind)
    small = copy.deepcopy(model)
    grower = gn.Grower(model, {"input_ids": PROMPT, "use_cache": False})
    grower.grow(gn.Repeat(f"{stack}.1", count=2))
    gn.save(grower, tmp_path / "deep.safetensors")
    again = gn.load(
        tmp_path / "deep.safetensors", lambda: small, {"input_ids": PROMPT, "use_cache": False}
    )
    assert torch.equal(logits(again), logits(model))
    assert getattr(again.config, number) == getattr(model.config, number)
    assert torch.equal(continued(again), continued(model))


def test_an_encoder_with_norms_behind_the_sum_is_refused():
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(gn.CannotPreserve, match=r"norm.*post-norm"):
        gn.Grower(model, {"input_ids": PROMPT}).grow(gn.Repeat("encoder.layer.1"))
    assert model.config.num_hidden_layers == 3 and len(model.encoder.layer) == 3
    assert all(torch.equal(x, state[n]) for n, x in model.state_dict().items())


def test_a_cache_among_the_outputs_is_refused_with_what_to_do():
    model, stack, _ = made("gpt2")
    with pytest.raises(gn.Unsupported, match="use_cache=False"):
        gn.Grower(model, {"input_ids": PROMPT}).grow(gn.Repeat(f"{stack}.0"))
    assert len(model.get_submodule(stack)) == model.config.n_layer == 3


def test_the_number_of_blocks_may_be_an_entry_of_a_list(tmp_path):
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(
        depths=[1, 2, 3], hidden_sizes=[4, 6, 8], image_size=32, num_stages=3
    )
    model, images = transformers.ConvNextModel(config).eval(), torch.randn(2, 3, 32, 32)
    before = model(images).last_hidden_state.detach()
    gn.Grower(model, images).grow(gn.Repeat("encoder.stages.1.layers.0", count=2))
    assert list(model.config.depths) == [1, 4, 3] and list(config.depths) == [1, 2, 3]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    change = (again(images).last_hidden_state - before).abs().max()
    assert change <= 1e-5 * before.abs().max()
