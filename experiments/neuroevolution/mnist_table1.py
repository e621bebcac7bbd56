"""Table 1 of "Deep Neuroevolution" on MNIST: table1.py with other images; the paper prints none.

The base has two stages, since the side of 28 pixels can be halved twice.

    gnomon run neuroevolution/mnist_table1 --preset quick --data PATH    12 core-minutes
    gnomon run neuroevolution/mnist_table1 --preset paper --data PATH    30 core-hours, an estimate

Result: see docs/results/neuroevolution-mnist_table1.md.
"""

from dataclasses import replace

from setting import MNIST
from table1 import EXPERIMENT as CIFAR

EXPERIMENT = replace(
    CIFAR,
    name="neuroevolution/mnist_table1",
    about="On MNIST, a search, its ensembles, and the same FLOPs without a search.",
    source="beyond Painter, Deep Neuroevolution, table 1",
    data=MNIST,
    printed={},
)
