"""Figure 5 of "Deep Neuroevolution" on MNIST: widen_when.py with other images.

The paper calls these figures nearly identical, but for the scale, and omits them.

    gnomon run neuroevolution/mnist_widen_when --preset quick --data PATH    11 core-minutes
    gnomon run neuroevolution/mnist_widen_when --preset paper --data PATH    4 core-hours

Result: see docs/results/neuroevolution-mnist_widen_when.md.
"""

from dataclasses import replace

from setting import MNIST
from widen_when import EXPERIMENT as CIFAR

EXPERIMENT = replace(
    CIFAR,
    name="neuroevolution/mnist_widen_when",
    about="On MNIST, widened sooner or later: the same accuracy for fewer FLOPs?",
    source="Painter, Deep Neuroevolution, 5.2, which omits the figures",
    data=MNIST,
    printed={},
)
