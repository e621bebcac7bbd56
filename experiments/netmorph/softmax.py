"""Figure 7 of "Network Morphism": softmax regression on MNIST becomes a network of 784-50-10.

Its one layer is made into two with a P-activation between: PReLU (7a) or PTanH (7b), both the
identity at first and learned. Net2Net, for PReLU alone as in the paper, puts in an identity layer
and copies its ten channels five times. The paper prints 97 % for NetMorph and 94 % for Net2Net.

    gnomon run netmorph/softmax --preset quick --data PATH    2 core-minutes (20 epochs, 3 seeds)
    gnomon run netmorph/softmax --preset paper --data PATH    12 core-minutes (100 epochs, 5 seeds)

Result: see docs/results/netmorph-softmax.md.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from gnomon import At, Deepen, Factor, Net2Net, Widen
from gnomon.activations import PActivation
from gnomon.grower import Morph
from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.experiment import Arm, Experiment, Size, Start
from gnomon.lab.training.recipe import Recipe

HIDDEN, CLASSES = 50, 10
RECIPE = Recipe(epochs=100, lr=0.01, weight_decay=0, optimizer="sgd")  # ours: none is printed
SCRATCH = RECIPE


def perceptron(task: ImageTask, hidden: int | None = None) -> nn.Module:
    """Softmax regression, or a layer of PReLUs before it."""
    inputs = task.train.inputs[0].numel()
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if hidden is not None:
        layers |= {"hidden": nn.Linear(inputs, hidden), "activation": nn.PReLU()}
    layers["head"] = nn.Linear(hidden or inputs, task.classes)
    return nn.Sequential(layers)


def arms(size: Size) -> Mapping[str, Arm]:
    """The regression, its children, and the larger network from scratch."""
    recipe, scratch = (replace(recipe, epochs=size.epochs) for recipe in (RECIPE, SCRATCH))
    relu, tanh = (PActivation(phi) for phi in (nn.ReLU(), nn.Tanh()))

    def child(*morphs: Morph) -> Arm:
        return Arm(recipe, start=Start("softmax"), schedule=At(morphs, epoch=0))

    identity = nn.Sequential(PActivation(nn.ReLU()), nn.Linear(CLASSES, CLASSES))
    return {
        "softmax": Arm(recipe, perceptron),
        "NetMorph PReLU": child(Factor("head", HIDDEN, activation=relu)),
        "NetMorph PTanH": child(Factor("head", HIDDEN, activation=tanh)),
        "Net2Net PReLU": child(
            Deepen("head", Net2Net(), block=identity), Widen("head", to=HIDDEN, rule=Net2Net())
        ),
        "PReLU scratch": Arm(scratch, partial(perceptron, hidden=HIDDEN)),
    }


EXPERIMENT = Experiment(
    name="netmorph/softmax",
    about="One layer becomes two with a learned activation between.",
    source="Wei et al., Network Morphism, figure 7",
    arms=arms,
    presets={"quick": Size(epochs=20), "paper": Size(epochs=100, seeds=range(5))},
    data=Images("mnist", validation=5000),
    printed={"softmax": 0.9229, "NetMorph PReLU": 0.97, "Net2Net PReLU": 0.94},
    printed_as="test accuracy",
)
