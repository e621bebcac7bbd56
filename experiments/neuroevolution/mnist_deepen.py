"""Figure 8 of "Deep Neuroevolution" on MNIST: deepen.py with other images.

The paper calls these figures nearly identical, but for the scale, and omits them.

    gnomon run neuroevolution/mnist_deepen --preset quick --data PATH    11 core-minutes
    gnomon run neuroevolution/mnist_deepen --preset paper --data PATH    4 core-hours

Result: see docs/results/neuroevolution-mnist_deepen.md.
"""

from dataclasses import replace

from deepen import EXPERIMENT as CIFAR
from setting import MNIST

EXPERIMENT = replace(
    CIFAR,
    name="neuroevolution/mnist_deepen",
    about="On MNIST, a converged network one stage deeper: does it learn on?",
    source="Painter, Deep Neuroevolution, 5.2, which omits the figures",
    data=MNIST,
    printed={},
)
