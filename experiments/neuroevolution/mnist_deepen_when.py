"""Figure 7 of "Deep Neuroevolution" on MNIST: deepen_when.py with other images.

The paper calls these figures nearly identical, but for the scale, and omits them.

    gnomon run neuroevolution/mnist_deepen_when --preset quick --data PATH    12 core-minutes
    gnomon run neuroevolution/mnist_deepen_when --preset paper --data PATH    4 core-hours

Result: see docs/results/neuroevolution-mnist_deepen_when.md.
"""

from dataclasses import replace

from deepen_when import EXPERIMENT as CIFAR
from setting import MNIST

EXPERIMENT = replace(
    CIFAR,
    name="neuroevolution/mnist_deepen_when",
    about="On MNIST, deepened sooner or later: the same accuracy for fewer FLOPs?",
    source="Painter, Deep Neuroevolution, 5.2, which omits the figures",
    data=MNIST,
    printed={},
)
