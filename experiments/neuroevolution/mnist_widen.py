"""Figure 6 of "Deep Neuroevolution" on MNIST: widen.py with other images.

The paper calls these figures nearly identical, but for the scale, and omits them.

    gnomon run neuroevolution/mnist_widen --preset quick --data PATH    12 core-minutes
    gnomon run neuroevolution/mnist_widen --preset paper --data PATH    4 core-hours

Result: see docs/results/neuroevolution-mnist_widen.md.
"""

from dataclasses import replace

from setting import MNIST
from widen import EXPERIMENT as CIFAR

EXPERIMENT = replace(
    CIFAR,
    name="neuroevolution/mnist_widen",
    about="On MNIST, a converged network twice as wide: does it learn on?",
    source="Painter, Deep Neuroevolution, 5.2, which omits the figures",
    data=MNIST,
    printed={},
)
