"""Every layer of every toy as two or three: the same function, and everything goes along."""

import copy
import io
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gnomon as gn
from contracts import answers, change, growable, run, tensors, without_dropout
from factoring import NOT_ONCE, dead, factored, layers, morphs
from gnomon.activations import PActivation, PBatchNorm
from gnomon.planning.plan import Plan
from toys import TOYS

WITH_LAYERS = [t for t in TOYS if t != "batched_product"]
FEW = ["mlp", "resnext", "autoencoder", "conv1d", "attention"]


@pytest.mark.parametrize("toy", WITH_LAYERS)
def test_every_layer_of_every_toy_can_be_factored(toy):
    f = factored(toy)
    assert len(f.receipts) == len(layers(f.old)) - len(NOT_ONCE.get(toy, ())) > 0
    assert all(r.preserves for r in f.receipts)
    for training in (False, True):
        moved = change(answers(f.old, f.inputs, training), answers(f.new, f.inputs, training))
        assert moved <= 1e-11, training


def test_every_way_comes_up():
    """Or the test above would shrink to nothing unseen."""
    notes = [str(note) for t in WITH_LAYERS for r in factored(t).receipts for note in r.plan.notes]
    for words in "linear", "Tanh as a P", "Sigmoid as a P", "GELU as a P", "ReLU by", "SiLU by":
        assert sum(words in note for note in notes) >= 3, words
    plans = [r.plan.modules[0] for t in WITH_LAYERS for r in factored(t).receipts]
    assert sum(edit.options["border"] == "same" for edit in plans) >= 6
    assert sum(len(edit.options["widths"]) > 1 for edit in plans) >= 10
    modules = [m for t in WITH_LAYERS for m in factored(t).new.modules()]
    assert sum(isinstance(m, PBatchNorm) for m in modules) >= 8


@pytest.mark.parametrize("toy", WITH_LAYERS)
def test_untouched_parameters_stay_the_same_objects_and_buffers_too(toy):
    f = factored(toy)
    gone = {e.place for r in f.receipts for e in r.plan.modules}
    for name, x in tensors(f.old).items():
        if name.rpartition(".")[0] not in gone:
            assert torch.equal(x, tensors(f.new)[name]), name
    assert f.new.training == f.old.training
    assert {m.training for m in f.new.modules()} == {True}
    assert {p.dtype for p in f.new.parameters()} == {torch.float64}


@pytest.mark.parametrize("toy", WITH_LAYERS)
def test_everything_new_learns_within_two_steps(toy):
    f = factored(toy)
    new = set(dict(f.new.named_parameters())) - set(dict(f.old.named_parameters()))
    inside = {n for n in new if ".norm." in n}  # gains of a P-norm, behind the gate's first step
    assert dead(f.new, f.inputs, new - inside, 2) == set()
    assert dead(f.new, f.inputs, inside, 3) == set()


@pytest.mark.parametrize("toy", WITH_LAYERS)
def test_the_receipts_count_what_is_there(toy):
    f = factored(toy)
    ends = [r.parameters for r in f.receipts]
    counts = [sum(p.numel() for p in m.parameters()) for m in (f.old, f.new)]
    assert ends[0][0] == counts[0] and ends[-1][1] == counts[1]
    for one, two in zip(f.receipts, f.receipts[1:], strict=False):
        assert one.parameters[1] == two.parameters[0]
        assert one.flops[1] == two.flops[0]  # predicted, then recorded
    assert all(r.renamed == {} and "Factor(" in str(r) for r in f.receipts)
    assert all(f"in the place of '{r.plan.modules[0].place}'" in str(r.plan) for r in f.receipts)


def test_flops_are_those_of_torchs_counter():
    for toy in "resnet", "mobile", "conv3d":
        f = factored(toy)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.deepcopy(f.new).eval()(f.inputs)
        assert counter.get_total_flops() // len(f.inputs) == f.receipts[-1].flops[1]


@pytest.mark.parametrize("toy", WITH_LAYERS[::3])
def test_a_factored_model_comes_back_from_its_file_bit_for_bit(toy, tmp_path):
    f = factored(toy)
    gn.save(f.grower, tmp_path / "f.safetensors")
    again = gn.load(tmp_path / "f.safetensors", TOYS[toy].model)
    assert repr(again) == repr(f.new) and list(again.state_dict()) == list(f.new.state_dict())
    assert all(torch.equal(x, tensors(again)[n]) for n, x in tensors(f.new).items())
    assert change(answers(f.new, f.inputs, True), answers(again, f.inputs, True)) == 0


@pytest.mark.parametrize("toy", FEW)
def test_plans_written_as_json_give_a_copy_the_same_weights(toy):
    f, twin = factored(toy), TOYS[toy].model()
    grower = gn.Grower(twin, f.inputs)
    for receipt in f.receipts:
        grower.grow(Plan.from_json(receipt.plan.to_json()))
    assert repr(twin) == repr(f.new)
    assert all(torch.equal(x, tensors(twin)[n]) for n, x in tensors(f.new).items())


@pytest.mark.parametrize("toy", FEW)
def test_copies_pickles_and_state_dicts_work(toy):
    f = factored(toy)
    wanted = answers(f.new, f.inputs, False)
    file = io.BytesIO()
    torch.save(f.new.state_dict(), file)
    file.seek(0)
    filled = copy.deepcopy(f.new)
    with torch.no_grad():
        for p in filled.parameters():
            p.zero_()
    filled.load_state_dict(torch.load(file, weights_only=True))
    for again in copy.deepcopy(f.new), pickle.loads(pickle.dumps(f.new)), filled:
        assert change(wanted, answers(again, f.inputs, False)) == 0


@pytest.mark.parametrize("toy", ["autoencoder", "mlp"])
def test_a_factored_model_exports(toy):
    f = factored(toy)
    model = without_dropout(f.new, training=False)
    exported = torch.export.export(model, (f.inputs,)).module()
    with torch.no_grad():
        assert change(run(model, f.inputs), run(exported, f.inputs)) <= 1e-12


@pytest.mark.parametrize("toy", FEW)
def test_factored_then_wider_then_factored_again(toy):
    f = factored(toy)
    model = copy.deepcopy(f.new)
    grower = gn.Grower(model, f.inputs)
    grower.grow(gn.Widen(growable(grower), by=1.5))
    deep = [p for p in layers(model) if "layer" in p.rpartition(".")[2]][:4]
    for i, path in enumerate(deep):
        ways = morphs(path, model.get_submodule(path), 0)
        grower.grow(ways[(i * 2) % 7])
    assert any(p.count("layer2") + p.count("layer1") == 2 for p in layers(model))
    for training in (False, True):
        moved = change(answers(f.old, f.inputs, training), answers(model, f.inputs, training))
        assert moved <= 1e-11
    assert any(isinstance(m, PActivation) for m in model.modules()) or toy == "conv1d"


@pytest.mark.parametrize("toy", ["mlp", "conv1d", "attention"])
def test_in_float32_within_1e_5_and_in_bfloat16_within_the_models_own_noise(toy):
    for dtype, tolerance in (torch.float32, 1e-5), (torch.bfloat16, 2.0**-6):
        f = factored(toy, dtype)
        precise = copy.deepcopy(f.old).double()
        double = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.double, f.inputs)
        for training in (False, True):
            was = answers(f.old, f.inputs, training)
            noise = change(answers(precise, double, training), was)
            moved = change(was, answers(f.new, f.inputs, training))
            limit = max(tolerance, len(f.receipts) * noise)
            assert moved <= limit, (dtype, training, moved, noise)
