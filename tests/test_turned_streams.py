"""Streams under norms are turned into any width, or say why not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gnomon as gn
import toy_streams as streams
from contracts import answers, change, tensors
from gnomon.editing.surgery import Surgery, operate
from gnomon.proof.algebra import prove_algebra
from test_streams import IMAGES, NORMS, Scaled, language, made, moved
from untouched import refused

ISOMETRY = gn.Isometry()
X = torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(2))


def grow(model, inputs=X, where="words", rule=ISOMETRY, **amount):
    return gn.Grower(model, inputs).grow(gn.Widen(where, rule=rule, **(amount or {"by": 1.5})))


def flat(model):
    """Gains as a new model has them: all alike, and no biases."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            if "norm" in name and name.endswith(("weight", "bias")):
                x.fill_(0.7 if name.endswith("weight") else 0.3)
                x.add_(torch.arange(x.numel()) * (0.1 if name.endswith("bias") else 0))
    return model


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"last": False}], ids=str)
def test_a_stream_is_turned_twice(norm, options):
    old = language(norm, **options)
    new = copy.deepcopy(old)
    for step in ({"by": 1.5}, {"add": 1}):
        assert grow(new, **step).largest_change <= 1e-12
        assert moved(old, new) <= 1e-12
    assert new.words.weight.shape == (9, 10)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(norm=st.sampled_from(list(NORMS)), width=st.integers(2, 9), add=st.integers(1, 12))
def test_any_width_by_any_number(norm, width, add):
    old = language(norm, width=width, depth=1)
    new = copy.deepcopy(old)
    grow(new, add=add)
    assert moved(old, new) <= 1e-12 and new.words.weight.shape == (9, width + add)


@pytest.mark.parametrize("norm", ["LayerNorm", "Gemma"])
def test_gains_go_into_readers_eps_stays_and_no_old_entry_is_what_it_was(norm):
    old = language(norm)
    new = copy.deepcopy(old)
    plan = grow(new).plan
    gain = new.norm.weight
    assert torch.equal(gain, torch.full_like(gain, 1.0 if norm == "LayerNorm" else 0.0))
    eps = "eps" if norm == "LayerNorm" else "variance_epsilon"
    assert getattr(new.norm, eps) == getattr(old.norm, eps) and not plan.attributes[:0]
    assert set(plan.changed) == {edit.name for edit in plan.edits}
    for name in ("words.weight", "blocks.0.q.weight", "blocks.0.down.weight", "head.weight"):
        before, now = tensors(old)[name], tensors(new)[name]
        now = now[tuple(slice(n) for n in before.shape)]
        assert not bool(torch.isclose(now, before).any()), name
    text = str(plan)
    assert "set to 1" in text if norm == "LayerNorm" else "set to 0" in text
    assert "'words' is turned" in text and "go into the weights that read them" in text
    assert "dropout on 'words'" in text and "in expectation only" in text


def test_readers_read_what_nothing_writes_yet():
    """Otherwise no gradient of SGD would ever leave the turned channels."""
    model = language("RMSNorm", depth=1)
    e = grow(model).plan.embeddings["words"]
    outside = torch.eye(9).double() - e.matrix @ e.matrix.T * (6 / 9)
    assert (model.blocks[0].up.weight @ outside).abs().max() > 0.05
    assert (model.words.weight @ outside).abs().max() < 1e-14


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"last": False}], ids=str)
def test_every_entry_of_every_turned_tensor_has_a_gradient_at_once(norm, options):
    model = language(norm, **options).eval()
    plan = grow(model).plan
    (model(X) ** 2).sum().backward()
    for edit in plan.edits:
        gradient = tensors(model)[edit.name].grad
        seen = gradient[X.unique()] if edit.name == "words.weight" else gradient
        assert seen.abs().min() > 1e-12, edit.name


@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm", "Gemma"])
def test_gradients_are_carried_as_they_are(norm):
    """Exactly in readers; in writers but for what readers have begun to read."""
    model = language(norm).eval()
    (model(X) ** 2).sum().backward()
    old = {name: p.grad.clone() for name, p in model.named_parameters()}
    e = grow(model).plan.embeddings["words"]
    carried = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (model(X) ** 2).sum().backward()
    for name in ("blocks.0.q.weight", "blocks.1.up.weight", "head.weight"):
        assert torch.allclose(carried[name], model.get_parameter(name).grad, rtol=1e-8, atol=1e-12)
    now = model.words.weight.grad @ e.matrix
    assert torch.allclose(now, old["words.weight"], rtol=1e-8, atol=1e-11)
    assert torch.allclose(carried["words.weight"] @ e.matrix, now, rtol=1e-8, atol=1e-11)
    if norm == "LayerNorm":
        back = model.norm.bias.grad @ e.matrix
        assert torch.allclose(carried["norm.bias"] @ e.matrix, back, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{"post": True}, {"tied": True}, {"last": False}], ids=str)
def test_gains_that_are_one_number_may_stay(norm, options):
    """As they are in a new model: then a residual sum or a tied table may come behind them."""
    old = flat(language(norm, **options))
    new = copy.deepcopy(old)
    grow(new)
    grow(new, add=2)
    assert moved(old, new) <= 1e-12


def test_a_tied_table_stays_tied_and_its_norm_is_divided():
    model = flat(language("LayerNorm", tied=True))
    grow(model)
    assert model.head.weight is model.words.weight
    assert torch.allclose(model.norm.weight, torch.tensor(0.7 * 6 / 9).double())


def test_a_tied_head_may_have_a_bias_and_be_trained_on():
    old = flat(language("Gemma", tied=True))
    old.head.bias = nn.Parameter(torch.randn(9, dtype=torch.float64))
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= 1e-12


class Translator(nn.Module):
    """An encoder under RMSNorm, and a decoder of another width under LayerNorm that reads it."""

    def __init__(self):
        super().__init__()
        self.heard, self.said = nn.Embedding(9, 6), nn.Embedding(9, 4)
        self.encoder, self.norm = streams.Block(6, streams.RootMeanSquare), nn.RMSNorm(6, eps=1e-3)
        self.decoder, self.last = streams.Block(4, nn.LayerNorm), nn.LayerNorm(4)
        self.values, self.head = nn.Linear(6, 4), nn.Linear(4, 9)

    def forward(self, tokens):
        heard = self.norm(self.encoder(self.heard(tokens)))
        return self.head(self.last(self.decoder(self.said(tokens)) + self.values(heard)))


def test_several_streams_are_turned_at_once_each_by_a_matrix_of_its_own():
    old = made(Translator)
    new = copy.deepcopy(old)
    plan = grow(new, where=["heard", "said"]).plan
    assert len({e.turn for e in plan.embeddings.values()} - {None}) == 2
    assert new.values.weight.shape == (6, 9)  # it reads one stream and writes the other
    assert moved(old, new) <= 1e-12


def test_a_stream_under_both_kinds_of_norm():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.one, self.other = nn.Linear(3, 4), nn.RMSNorm(4), nn.LayerNorm(4)
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = self.words(x) + 0.5
            return self.left(self.one(x)) + self.right(self.other(x))

    old, x = made(Both), torch.randn(5, 3, dtype=torch.float64)
    new = copy.deepcopy(old)
    grow(new, x)
    assert moved(old, new, x) <= 1e-12


def test_what_is_read_through_a_flatten_and_beside_other_channels():
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
            self.other, self.head = nn.Linear(3, 2), nn.Linear(5 * 4 + 4 + 2, 2)

        def forward(self, x):
            y = self.norm(self.stem(x))
            both = [y.transpose(1, 2).flatten(1), y[:, 0], self.other(x[:, 0])]
            return self.head(torch.cat(both, 1))

    old, x = made(Flattened), torch.randn(2, 5, 3, dtype=torch.float64)
    new = copy.deepcopy(old)
    grow(new, x, "stem", add=3)
    assert moved(old, new, x) <= 1e-12 and new.head.weight.shape == (2, 5 * 7 + 7 + 2)


class Merged(nn.Module):
    """Neighbours are normed together, as where a Swin halves its resolution."""

    def __init__(self, how="cat"):
        super().__init__()
        self.stem, self.norm, self.how = nn.Linear(3, 5), nn.LayerNorm(10), how
        self.merge, self.head = nn.Linear(10, 4, bias=False), nn.Linear(5, 4)

    def forward(self, x):
        x = self.stem(x)
        pairs = torch.cat([x[:, 0::2], x[:, 1::2]], -1)
        if self.how == "view":
            pairs = x.reshape(x.shape[0], -1, 2 * x.shape[-1])
        y = self.norm(pairs)
        if self.how == "swapped":
            y = torch.cat([*reversed(y.chunk(2, -1))], -1)
        if self.how == "parts":
            return self.head(y.unflatten(-1, (2, -1))).sum(2) + self.merge(pairs)
        return self.merge(y) + self.head(x[:, ::2])


@pytest.mark.parametrize("how", ["cat", "view"])
@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_norm_over_several_positions_at_once(how, moment):
    old, x = made(lambda: Merged(how)), torch.randn(2, 6, 3, dtype=torch.float64)
    new = copy.deepcopy(old)
    adam = torch.optim.Adam(new.parameters(), lr=0.0)
    (new(x) ** 2).sum().backward()
    adam.step()
    adam.zero_grad()
    (new(x) ** 2).sum().backward()
    gn.Grower(new, x, adam).grow(gn.Widen("stem", add=2, rule=ISOMETRY))
    assert moved(old, new, x) <= 1e-12 and new.merge.weight.shape == (4, 14)
    assert adam.state[new.merge.weight][moment].shape == (4, 14)
    carried = new.merge.weight.grad.clone()
    new.zero_grad()
    (new(x) ** 2).sum().backward()
    assert torch.allclose(carried, new.merge.weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["swapped", "parts"])
def test_parts_of_what_a_norm_averages_do_not_know_their_gains(how):
    model, x = made(lambda: Merged(how)), torch.randn(2, 6, 3, dtype=torch.float64)
    with refused(gn.CannotPreserve, "takes apart what a norm averages", of=model):
        grow(model, x, "stem")


def test_masked_and_padded_positions_and_dropped_paths():
    class Masked(streams.Language):
        def forward(self, tokens):
            x = F.pad(self.words(tokens) + self.positions, (0, 0, 1, 2), value=0.3)
            x = x.masked_fill((torch.arange(7) % 3 == 1)[:, None], 0.5) - 0.25
            x = torch.where((torch.arange(7) == 4)[:, None], x.mean(1, keepdim=True), x)
            x = torch.cat([self.positions.expand(3, -1, -1)[:, :1], x], 1) * tokens.sum() / 2
            x = self.norm(self.blocks(x)).masked_fill((torch.arange(8) == 3)[:, None], 0.0)
            if self.training:  # drops whole examples, not channels
                x = x * x.new_empty((3, 1, 1)).bernoulli_(0.7) / 0.7
            return self.head(x[:, 2:].mean(1) - x[:, 0])

    old = made(lambda: Masked(nn.LayerNorm))
    new = copy.deepcopy(old)
    receipt = grow(new)  # with masks set to their mean
    assert receipt.largest_change <= 1e-12 and "'blocks.0.dropout'" in str(receipt.plan)
    assert change(answers(old, X, False), answers(new, X, False)) <= 1e-12


@pytest.mark.parametrize("until", [(), "1", "2"], ids=str)
def test_a_stream_that_ends_at_a_block(until):
    def block():
        return gn.Residual(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)))

    layers = nn.Linear(3, 6), block(), block(), nn.LayerNorm(6), nn.Linear(6, 2)
    old, x = made(lambda: nn.Sequential(*layers)), torch.randn(5, 3, dtype=torch.float64)
    new = copy.deepcopy(old)
    grower = gn.Grower(new, x)
    grower.grow(gn.Widen("0", by=1.5, rule=ISOMETRY, until=until))
    assert moved(old, new, x) <= 1e-12
    assert new[4].weight.shape[1] == (6 if until else 9)


# --- refusals --------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return x * self.gate(x).sigmoid()


class Bent(streams.Language):
    """Something else than a linear layer reads a norm, or the stream."""

    def __init__(self, how):
        super().__init__(nn.LayerNorm)
        self.how = how

    def forward(self, tokens):
        x = self.blocks(self.words(tokens) + self.positions)
        y = self.norm(x)
        if self.how == "sum":
            return self.head(y) + x.sum(-1, keepdim=True)
        if self.how == "scores":
            return self.head(y) + (x @ x.transpose(1, 2)).sum(-1, keepdim=True)
        if self.how == "weights":
            return y @ F.normalize(self.head.weight, dim=1).T
        if self.how == "number":
            return self.head(y + 0.5)
        if self.how == "filled":
            return self.head(y.masked_fill(tokens[..., None] == 3, 0.5))
        if self.how == "largest":
            return self.head(y.amax(1))
        if self.how == "both":
            return self.head(y) + self.head(x)
        if self.how == "two norms":
            return self.head(y) + self.head(self.blocks[0].norm1(x))
        return self.head(self.blocks[0].norm1(y))


def bent(how):
    return lambda: Bent(how)


class Adaptive(nn.Module):
    """The gain is computed."""

    def __init__(self):
        super().__init__()
        self.words, self.scale, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)

    def forward(self, tokens):
        x = self.words(tokens)
        return self.head(F.layer_norm(x, (x.shape[-1],)) * (1 + self.scale(x.mean(1, True))))


REFUSED = {
    "post-norm": (lambda: streams.Language(nn.LayerNorm, post=True), X, "add in 'blocks.0'"),
    "tied": (lambda: streams.Language(nn.LayerNorm, tied=True), X, "both writes and reads"),
    "tied without a norm": (
        lambda: streams.Language(nn.LayerNorm, tied=True, last=False), X, "untie it",
    ),
    "a bare norm before a tied head": (
        lambda: streams.Language(streams.Bare, tied=True), X, "untie it",
    ),
    "adaptive": (Adaptive, X, "is not multiplied by one parameter of its own"),
    "summed over channels": (bent("sum"), X, "sum over the axis"),
    "read against itself": (bent("scores"), X, ""),
    "weights of length one": (bent("weights"), X, ""),
    "a number behind a gain": (bent("number"), X, "add in ''"),
    "filled behind a gain": (bent("filled"), X, "masked_fill in ''"),
    "largest": (bent("largest"), X, "amax in ''"),
    "read twice": (bent("both"), X, "'head.weight' reads them behind different norms"),
    "two gains": (bent("two norms"), X, "'head.weight' reads them behind different norms"),
    "a norm of a norm": (bent("norms"), X, "native_layer_norm in 'blocks.0.norm1' averages"),
    "depthwise": (
        lambda: streams.Images(nn.Conv2d(6, 6, 3, padding=1, groups=6)), IMAGES,
        "convolution in 'between' does not treat all channels alike",
    ),
    "layer scale": (lambda: streams.Images(Scaled()), IMAGES, "mul in 'between'"),
    "gate": (lambda: streams.Images(Gated()), IMAGES, "sigmoid in 'between'"),
    "activation": (lambda: streams.Images(nn.GELU()), IMAGES, "gelu in 'between'"),
    "leaky": (lambda: streams.Images(nn.ReLU()), IMAGES, "relu in 'between'"),
    "pooling": (lambda: streams.Images(nn.MaxPool2d(3, 1, 1)), IMAGES, "max_pool2d"),
    "batch norm": (lambda: streams.Images(nn.BatchNorm2d(6)), IMAGES, "batch_norm"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_see_the_turn_is_refused_with_its_reason(case):
    build, inputs, reason = REFUSED[case]
    model = made(build)
    adam = torch.optim.Adam(model.parameters())
    (model(inputs) ** 2).sum().backward()
    adam.step()
    adam.zero_grad()
    where = "stem" if inputs is IMAGES else "words"
    with refused(gn.GrowthError, reason, of=model, optimizer=adam):
        gn.Grower(model, inputs, adam).grow(gn.Widen(where, by=1.5, rule=ISOMETRY))


def test_a_gain_of_zero_with_a_bias_is_refused_and_without_one_is_not():
    model = language("LayerNorm")
    with torch.no_grad():
        model.norm.weight[2] = 0
    with refused(gn.CannotPreserve, "'norm.weight' is 0 for 1 channels", of=model):
        grow(model)
    with torch.no_grad():
        model.norm.bias[2] = 0
    old = copy.deepcopy(model)
    grow(model)
    assert moved(old, model) <= 1e-12


def test_a_plan_for_flat_gains_is_refused_by_a_model_whose_gains_differ():
    flat_one, other = flat(language("LayerNorm", tied=True)), language("LayerNorm", tied=True)
    plan = gn.Grower(flat_one, X).plan(gn.Widen("words", by=1.5, rule=ISOMETRY))
    with refused(gn.CannotPreserve, "'norm.weight' differs from channel to channel", of=other):
        gn.Grower(other, X).grow(plan)


def test_widths_inside_of_blocks_are_refused_or_skipped():
    model = language("LayerNorm")
    with refused(gn.CannotPreserve, "no LayerNorm or RMSNorm averages", of=model):
        grow(model, where="blocks.0.up")
    plan = grow(model, where="*").plan
    assert list(plan.embeddings) == ["words"] and plan.skipped


def test_a_student_cannot_share_what_is_turned():
    with pytest.raises(gn.CannotPreserve, match="turns the old channels together"):
        gn.share(language("LayerNorm"), gn.Widen("words", by=1.5, rule=ISOMETRY), X)


def test_the_table_of_groups_says_so():
    for model in (language("LayerNorm"), language("RMSNorm", tied=True)):
        stream = gn.Grower(model, X).groups[0]
        assert stream.rules == ("Net2Net", "NetMorph", "Isometry")


# --- the proof, files, plans -----------------------------------------------------------------


def test_the_proof_by_algebra_sees_every_tensor():
    model = language("LayerNorm")
    plan = gn.Grower(model, X).plan(gn.Widen("words", by=1.5, rule=ISOMETRY))
    surgery = Surgery()
    operate(model, plan, (), surgery)
    prove_algebra(model, plan, surgery)
    for edit in plan.edits:
        entry = tensors(model)[edit.name].data.view(-1)[3:4]
        right = entry.clone()
        entry += 1e-6
        with pytest.raises(gn.NotProved, match=edit.name):
            prove_algebra(model, plan, surgery)
        entry.copy_(right)
    surgery.undo()
    assert moved(language("LayerNorm"), model) == 0


@pytest.mark.parametrize("broken", [0.9, 1.1])
def test_the_proof_by_algebra_sees_a_matrix_that_is_no_isometry(monkeypatch, broken):
    from gnomon import embedding

    right = embedding.isometry
    monkeypatch.setattr(embedding, "isometry", lambda *given: right(*given) * broken)
    model = language("LayerNorm")
    with refused(gn.NotProved, "the matrix that turns 'words' is off", of=model):
        gn.Grower(model, X).grow(gn.Widen("words", by=1.5, rule=ISOMETRY), proof="algebra")


def test_a_plan_goes_to_a_copy_and_a_file_comes_back(tmp_path):
    model = language("LayerNorm")
    twin = copy.deepcopy(model)
    grower = gn.Grower(model, X)
    text = grower.plan(gn.Widen("words", by=1.5, rule=ISOMETRY), seed=3).to_json()
    assert len(text) < 40_000
    grower.grow(gn.Plan.from_json(text))
    gn.Grower(twin, X).grow(gn.Plan.from_json(text))
    assert all(torch.equal(x, tensors(twin)[name]) for name, x in tensors(model).items())
    grower.grow(gn.Widen("words", add=1, rule=ISOMETRY))
    gn.save(grower, tmp_path / "grown.safetensors")
    again = gn.load(tmp_path / "grown.safetensors", lambda: language("LayerNorm"), X)
    assert change(answers(model, X, False), answers(again, X, False)) == 0


def test_the_same_plan_serves_an_average_of_the_weights():
    model = language("Gemma")
    average = language("Gemma")
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(0.9).add_(0.05 * torch.randn(p.shape, dtype=p.dtype))
    old = copy.deepcopy(average)
    plan = gn.Grower(model, X).plan(gn.Widen("words", by=1.5, rule=ISOMETRY))
    gn.Grower(average, X).grow(plan)
    assert moved(old, average) <= 1e-12


def test_other_seeds_turn_otherwise():
    one, two = language("RMSNorm"), language("RMSNorm")
    for seed, model in enumerate((one, two)):
        gn.Grower(model, X).grow(gn.Widen("words", by=1.5, rule=ISOMETRY), seed=seed)
    assert not torch.isclose(one.words.weight, two.words.weight).any()


@pytest.mark.parametrize("options", [{}, {"tied": True}], ids=str)
def test_a_plan_on_meta_fits_the_real_model(options):
    with torch.device("meta"):
        empty = streams.Language(nn.LayerNorm, **options)
    plan = gn.Grower(empty, X.to("meta")).plan(gn.Widen("words", by=1.5, rule=ISOMETRY))
    real = flat(made(lambda: streams.Language(nn.LayerNorm, **options), torch.float32))
    assert gn.Grower(real, X).grow(plan).largest_change <= 1e-5


def test_frozen_weights_are_turned_and_stay_frozen():
    old = language("LayerNorm")
    for name, p in old.named_parameters():
        p.requires_grad_("blocks.0" not in name)
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= 1e-12
    flags = [p.requires_grad for p in old.parameters()]
    assert [p.requires_grad for p in new.parameters()] == flags


def test_after_another_rule_and_before_one():
    old = language("LayerNorm")
    new = copy.deepcopy(old)
    grow(new, rule=gn.NetMorph(zero="writers"))
    grow(new)
    grow(new, rule=gn.Net2Net(), by=2)
    grow(new, where="blocks.0.up", rule=gn.R2R(), by=2)
    assert moved(old, new) <= 1e-12 and new.words.weight.shape == (9, 28)


def test_large_tables_are_turned_in_parts(monkeypatch):
    from gnomon.planning import turned

    whole, parts = language("LayerNorm"), language("LayerNorm")
    grow(whole)
    monkeypatch.setattr(turned, "_CHUNK", 20)
    old = copy.deepcopy(parts)
    grow(parts)
    assert moved(old, parts) <= 1e-12
    assert torch.allclose(parts.words.weight, whole.words.weight, rtol=0, atol=1e-14)
