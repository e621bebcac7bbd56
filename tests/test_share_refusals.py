"""What cannot be shared: by rules that touch old weights, and where blocks cannot stand in."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gnomon as gn
from gnomon.share import Blocks, separate, share
from toys import TOYS
from untouched import refused


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    ).double()


def batch(features: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(5, features, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(
    ("morph", "says"),
    [
        (gn.Widen("0", by=2, rule=gn.Net2Net()), ("divides the readers", "R2R()", "2.weight")),
        (gn.Widen("0", by=2, rule=gn.RandPad()), ("does not keep the function", "R2R()")),
        (gn.Widen("0", by=2, rule=gn.NetMorph(permute=True)), ("moves", "permute=False")),
        (gn.Widen("0", add=1), ("single new channel", "two channels or more")),
        (gn.Widen("0", add=1, rule=gn.Hybrid()), ("single new channel",)),
        ([gn.Widen("0", by=2), gn.Widen("0", by=2, rule=gn.Net2Net())], ("divides",)),
    ],
    ids=str,
)
def test_rules_that_change_old_weights_or_the_function_are_refused(morph, says):
    teacher = mlp()
    with refused(gn.CannotPreserve, *says, of=teacher):
        share(teacher, morph, batch())


def test_keys_that_make_up_for_a_scale_are_refused_with_what_to_do():
    teacher, inputs = TOYS["attention"].model(), TOYS["attention"].example()
    says = ("scale of attention", "grow the heads", "k.weight")
    with refused(gn.CannotPreserve, *says, of=teacher):
        share(teacher, gn.Widen("q[1]", by=2), inputs)


@pytest.mark.parametrize("morph", [[], "layer", None, [gn.Widen("0", by=2), 3]], ids=repr)
def test_what_is_no_morph_is_a_value_error(morph):
    teacher = mlp()
    with refused(ValueError, "morph", of=teacher):
        share(teacher, morph, batch())


def test_teachers_that_cannot_be_grown_are_refused_as_by_the_grower():
    teacher, widen = mlp(), gn.Widen("0", by=2)
    with refused(gn.NoSuchGroup, "elsewhere", of=teacher):
        share(teacher, gn.Widen("elsewhere", by=2), batch())
    with refused(gn.Unsupported, "example inputs", of=teacher):
        share(teacher, widen, batch(4))
    with refused(gn.InUse, "module", of=teacher):
        share(nn.DataParallel(teacher), widen, batch())
    with refused(gn.Unsupported, "meta", of=teacher):
        share(copy.deepcopy(teacher).to("meta"), widen, batch())


class SecondReference(nn.Module):
    """Reads its weight through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.also = [self.wide.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.also[0].T + self.wide.bias).relu())


class Children(nn.Module):
    """Calls whatever hangs on a container."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
        self.layers.gain = nn.Parameter(torch.rand(6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x) * self.layers.gain)


class Keys(nn.Module):
    """A parameter with a name that torch's ModuleDict needs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.head = nn.Parameter(torch.rand(6, 3)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.keys.T).relu())


class Itself(nn.Linear):
    """Gives itself for a copy."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        return self


class Anew(nn.Linear):
    """Builds its copy from its numbers."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        made = Anew(self.in_features, self.out_features).to(self.weight.dtype)
        made.load_state_dict(self.state_dict())
        return made


class Keeping(nn.Sequential):
    """Keeps its activation, which cannot be copied while its graph is alive."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


def ended(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("make", "where", "says"),
    [
        (SecondReference, "wide", ("another reference", "Grow a copy")),
        (Children, "layers.0", ("its forward fails", "ModuleDict")),
        (Keys, "keys", ("'keys' of a Keys", "another name")),
        (lambda: ended(Itself(3, 6)), "0", ("copies itself as itself",)),
        (lambda: ended(Anew(3, 6)), "0", ("0.weight", "__deepcopy__")),
        (lambda: kept(Keeping(*mlp())), "0", ("cannot be copied", "no_grad")),
    ],
    ids=["reference", "children", "keys", "itself", "anew", "keeping"],
)
def test_models_that_blocks_cannot_stand_in_for_are_refused(make, where, says):
    teacher = make().double()
    with refused(gn.Unsupported, *says, of=teacher):
        share(teacher, gn.Widen(where, by=2), batch())


def kept(model: nn.Module) -> nn.Module:
    model(batch())
    return model


def test_a_second_parametrization_on_shared_weights_is_refused():
    teacher, x = mlp(), batch()
    student = share(teacher, gn.Widen("0", by=2), x)
    parametrizations.spectral_norm(student[0])
    with refused(gn.Unsupported, "another parametrization", of=teacher):
        share(student, gn.Widen("0", by=2), x)
    with refused(gn.Unsupported, "another parametrization", of=teacher):
        separate(student)


def test_a_student_notices_that_its_teacher_grew_in_place():
    teacher, x = mlp(), batch()
    student = share(teacher, gn.Widen("0", by=2), x)
    gn.Grower(teacher, x).grow(gn.Widen("0", by=2))
    with refused(gn.Stale, "(6, 3)", "(12, 3)", of=teacher):
        student(x)


def test_a_wrong_student_is_not_given_away(monkeypatch):
    """The proof is of the student itself, not of the copy that it was made of."""

    def off(self: Blocks, old: Tensor, right=Blocks.forward) -> Tensor:
        return right(self, old) * (1 + 1e-9)

    monkeypatch.setattr(Blocks, "forward", off)
    teacher = mlp()
    with refused(gn.NotProved, "differs", of=teacher):
        share(teacher, gn.Widen("0", by=2), batch())
