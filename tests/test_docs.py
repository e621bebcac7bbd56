"""What the README and the docs tell people to type works as written."""

import re
from pathlib import Path

import torch
from torch import library, nn

import gnomon as gn
from gnomon.models import CharGPT, ResNetCifar10

ROOT = Path(__file__).parent.parent


def code_blocks(page):
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_readme_opens_with_two_commands_and_ci_runs_the_second_word_for_word():
    commands = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(commands) == 2
    assert commands[0].endswith("gnomon demo")
    assert commands[1] in (ROOT / ".ci/run").read_text()


def test_every_page_and_picture_that_is_linked_exists():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page.name} links {link}"


def small():
    """A network with a `layer3`."""
    layers = {"layer3": nn.Linear(3, 6), "act": nn.ReLU(), "head": nn.Linear(6, 2)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def test_the_lines_of_the_readme_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = small(), torch.randn(5, 3)
    names = {"model": model, "example_inputs": x, "build_small_model": small}
    names["optimizer"] = torch.optim.AdamW(model.parameters())
    exec(code_blocks("README.md")[0], names)
    assert torch.equal(names["model"](x), model(x)) and model.layer3.out_features == 9


def test_the_language_model_of_the_readme_grows_as_written():
    model, tokens = CharGPT(20, width=16, block=12), torch.randint(20, (3, 12))
    before = model(tokens).detach()
    exec(code_blocks("README.md")[1], {"gn": gn, "language_model": model, "tokens": tokens})
    assert model.characters.embedding_dim == 24 and len(model.blocks) == 4
    assert model.blocks[0].attention.queries.out_features == 24
    assert float((model(tokens).detach() - before).abs().max()) < 1e-5


def test_the_plan_that_the_readme_shows_is_the_one_that_is_made():
    shown = re.findall(r"```text\n(plan:.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    torch.manual_seed(0)
    grower = gn.Grower(ResNetCifar10(1 / 8), torch.randn(2, 3, 32, 32))
    assert f"{grower.plan(gn.Widen('*', by=1.5))}\n" == shown[0]


def test_the_files_of_the_docs_build_on_one_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(5, 3)
    grower = gn.Grower(small(), x)
    grower.grow(gn.Widen("layer3", by=2))
    gn.save(grower, "first.safetensors")
    names = {"gn": gn, "example_inputs": x, "build_small_model": small}
    exec(code_blocks("docs/api.md")[0], names)
    assert torch.equal(names["model"](x), names["grower"].model(x))


def test_the_lines_about_depth_run_as_written():
    x = torch.randn(4, 3, 16, 16)
    teacher = ResNetCifar10(1 / 8)
    model = ResNetCifar10(1 / 8)
    names = {"gn": gn, "nn": nn, "model": model, "example_inputs": x, "teacher": teacher}
    names["optimizer"] = torch.optim.AdamW(model.parameters())
    pieces = code_blocks("docs/depth.md")
    assert len(pieces) == 6
    with torch.no_grad():
        before = model.eval()(x)
    for piece in (pieces[0], pieces[1], pieces[4], pieces[5]):
        exec(piece, names)
    assert torch.allclose(model.eval()(x), before, atol=1e-5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    net.add_module("block", gn.R2RBlock(8, 8, 4))
    exec(pieces[3], {"gn": gn, "grower": gn.Grower(net, x)})
    assert isinstance(net.block, nn.Sequential)


def test_the_lines_about_copies_of_a_block_run_as_written():
    blocks = (
        gn.Residual(nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 3))) for _ in range(5)
    )
    model, x = nn.Sequential(), torch.randn(4, 3)
    model.add_module("transformer", nn.Sequential())
    model.transformer.add_module("h", nn.Sequential(*blocks))
    before = model(x).detach()
    names = {"gn": gn, "grower": gn.Grower(model, x)}
    exec(code_blocks("docs/depth.md")[2], names)
    assert len(model.transformer.h) == 7 and names["receipt"].preserves
    assert torch.allclose(model(x), before, atol=1e-6)


def test_the_lines_about_morphism_run_as_written(capsys):
    x = torch.randn(4, 3, 16, 16)
    model = ResNetCifar10(1 / 8)
    names = {"gn": gn, "nn": nn, "model": model, "example_inputs": x}
    names["optimizer"] = torch.optim.AdamW(model.parameters())
    with torch.no_grad():
        before = model.eval()(x)
    first, second = code_blocks("docs/morphism.md")
    exec(first, names)
    assert torch.allclose(model.eval()(x), before, atol=1e-5)
    exec(second, {})
    assert "e-" in capsys.readouterr().out


def test_the_branch_of_the_page_on_zero_starts_is_zero():
    names = {}
    exec(code_blocks("docs/zero-starts.md")[0], names)
    assert names["branch"](torch.randn(2, 8, 6, 6)).abs().max() < 1e-6


def test_the_rule_of_the_docs_keeps_the_function():
    names = {}
    exec(code_blocks("docs/adding-a-rule.md")[0], names)
    rule = names["Quadruples"]()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    old = model(x).detach()
    receipt = gn.Grower(model, x).grow(gn.Widen("0", add=8, rule=rule))
    assert (model(x) - old).abs().max() <= 1e-12 * old.abs().max()
    new = model[2].weight.detach()[:, 5:].unflatten(1, (2, 4))
    assert (new != 0).all() and torch.equal(new.sum(2), torch.zeros(2, 2, dtype=torch.float64))
    again = gn.Plan.from_json(receipt.plan.to_json(), rules=[names["Quadruples"]])
    assert again.rule == rule


def test_the_operation_of_the_docs_lets_channels_pass():
    mylib = library.Library("mylib", "DEF")
    mylib.define("smooth(Tensor x) -> Tensor")
    mylib.impl("smooth", lambda x: x.cumsum(2), "CompositeExplicitAutograd")
    try:
        source = code_blocks("docs/adding-an-op.md")[0].partition("grower = ")[0]
        names = {}
        exec(source, names)
        model = Smoothed().double()
        x = torch.randn(2, 3, 6, dtype=torch.float64)
        refused = next(g for g in gn.Grower(model, x).groups if g.name == "a")
        assert refused.verdict == "refused" and "no rule for smooth" in refused.reason
        old = model(x).detach()
        grower = gn.Grower(model, x, ops={"mylib::smooth": names["keeps_channels"]})
        grower.grow(gn.Widen("a", add=3))
        assert model.a.out_channels == 7
        assert (model(x) - old).abs().max() <= 1e-12 * old.abs().max()
    finally:
        mylib._destroy()


class Smoothed(nn.Module):
    """Two convolutions with a custom operation between them."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(3, 4, 3)
        self.b = nn.Conv1d(4, 2, 1)

    def forward(self, x):
        return self.b(torch.ops.mylib.smooth(self.a(x)))
